//! Tests of the migrations: databases of every earlier schema are filled and then migrated, and
//! nothing is lost.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Map, Value};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection};
use tempfile::TempDir;

use super::samples::{ended, lease, queued, start};
use super::schema::{self, MIGRATIONS};
use super::{Store, StoreError, backup, check, compact, document, microseconds};
use crate::domain::job::{Job, JobState};
use crate::domain::lease::{LeaseState, Quarantine};
use crate::storage::{IdempotencyKey, JobFilter, KeyOwner, Storage};

/// The first schema that has a table for tokens. The following constants say the same for leases
/// and for the fence floor.
const WITH_TOKENS: i64 = 2;
const WITH_LEASES: i64 = 3;
const WITH_FENCE_FLOOR: i64 = 9;

fn key(path: &str) -> IdempotencyKey {
    IdempotencyKey {
        caller: "ci".to_owned(),
        method: "POST".to_owned(),
        path: path.to_owned(),
        key: "k-1".to_owned(),
        fingerprint: [7; 32],
        created_at: start(),
    }
}

fn quarantine() -> Quarantine {
    Quarantine {
        reason: "broken disk".to_owned(),
        by: "ann".to_owned(),
        since: start(),
        automatic: false,
        job: None,
    }
}

async fn connection(directory: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(directory.join("otter.db"))
        .create_if_missing(true)
        .foreign_keys(false);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn run(connection: &mut SqliteConnection, statement: String) {
    sqlx::query(AssertSqlSafe(statement.clone()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{error}: {statement}"));
}

async fn fill_jobs(connection: &mut SqliteConnection) {
    let jobs = [(1, queued(1)), (2, ended(queued(2), JobState::Succeeded, start()))];
    for (arrival, job) in jobs {
        let ended_at = job.finished_at.map_or("NULL".to_owned(), |at| microseconds(at).to_string());
        run(
            connection,
            format!(
                "INSERT INTO jobs (id, arrival, state, kind, machine, requested_by, created_at, \
                 ended_at, document_version, document) VALUES ('{}', {arrival}, '{}', '{}', '{}', \
                 'ci', {}, {ended_at}, 1, '{}')",
                job.id,
                job.state.as_str(),
                job.kind().as_str(),
                job.target.id(),
                microseconds(job.created_at),
                version_1(&job),
            ),
        )
        .await;
    }
    insert_key(connection, "idempotency_keys", "job", "/jobs", &queued(2).id.to_string()).await;
}

/// The JSON document of a job in the form of document version 1.
fn version_1(job: &Job) -> String {
    let mut fields: Map<String, Value> =
        serde_json::from_str(&document::encode(job).unwrap()).unwrap();
    let mut machine = fields.remove("target").unwrap();
    assert_eq!(machine.as_object_mut().unwrap().remove("kind").unwrap(), "machine");
    let name = fields.remove("target_name").unwrap();
    fields.extend([("machine".to_owned(), machine), ("machine_name".to_owned(), name)]);
    serde_json::to_string(&fields).unwrap()
}

async fn insert_key(
    connection: &mut SqliteConnection,
    table: &str,
    column: &str,
    path: &str,
    id: &str,
) {
    let IdempotencyKey { caller, method, path, key, fingerprint, created_at } = key(path);
    run(
        connection,
        format!(
            "INSERT INTO {table} (caller, method, path, key, fingerprint, {column}, created_at) \
             VALUES ('{caller}', '{method}', '{path}', '{key}', '{}', '{id}', {})",
            hex::encode(fingerprint),
            microseconds(created_at),
        ),
    )
    .await;
}

async fn fill_tokens(connection: &mut SqliteConnection) {
    for (number, revoked) in [(1, "NULL"), (2, "1")] {
        run(
            connection,
            format!(
                "INSERT INTO tokens (id, name, role, digest, created_at, revoked_at) \
                 VALUES ('{}', 'token-{number}', 'runner', '{}', 1, {revoked})",
                uuid::Uuid::from_u128(number),
                hex::encode([u8::try_from(number).unwrap(); 32]),
            ),
        )
        .await;
    }
}

/// Adds leases whose ids are not in the order in which the leases were requested.
async fn fill_leases(connection: &mut SqliteConnection) {
    let leases = [
        lease(9, LeaseState::Queued, None),
        lease(4, LeaseState::Active, None),
        lease(7, LeaseState::Released, Some(start())),
        lease(2, LeaseState::Queued, None),
    ];
    for lease in leases {
        let ended_at = lease.ended_at.map_or("NULL".to_owned(), |at| microseconds(at).to_string());
        let held = if lease.state.holds_machine() { "'uuid:4'" } else { "NULL" };
        run(
            connection,
            format!(
                "INSERT INTO leases (id, state, holder, created_at, ended_at, held, \
                 document_version, document) VALUES ('{}', '{}', 'ci', {}, {ended_at}, {held}, 1, \
                 '{}')",
                lease.id,
                lease.state.as_str(),
                microseconds(lease.created_at),
                document::encode_lease(&lease).unwrap(),
            ),
        )
        .await;
    }
    let active = lease(4, LeaseState::Active, None).id.to_string();
    insert_key(connection, "lease_keys", "lease", "/leases", &active).await;
    let quarantine = document::encode_quarantine(&quarantine()).unwrap();
    run(
        connection,
        format!(
            "INSERT INTO kept_machines (machine, fence, last_lease_end, quarantine) \
             VALUES ('uuid:4', 41, 5, NULL), ('uuid:5', 7, NULL, '{quarantine}')"
        ),
    )
    .await;
}

/// Creates a database of this schema and fills each table that the schema has.
async fn filled(directory: &Path, schema: i64) {
    let mut connection = connection(directory).await;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version <= schema) {
        MIGRATIONS.run_to(migration.version, &mut connection).await.unwrap();
        match migration.version {
            1 => fill_jobs(&mut connection).await,
            WITH_TOKENS => fill_tokens(&mut connection).await,
            WITH_LEASES => fill_leases(&mut connection).await,
            WITH_FENCE_FLOOR => {
                let fill = "INSERT INTO fence_floor (one, fence) VALUES (1, 1000041)";
                run(&mut connection, fill.to_owned()).await;
            }
            _ => {}
        }
    }
    connection.close().await.unwrap();
}

/// Checks that a migrated database has all rows that were in the database of this schema.
async fn assert_complete(store: &Store, schema: i64) {
    assert_eq!(store.unfinished_jobs().await.unwrap(), [queued(1)], "schema {schema}");
    let second = ended(queued(2), JobState::Succeeded, start());
    assert_eq!(store.job(second.id).await.unwrap(), Some(second.clone()), "schema {schema}");
    let of_machine = JobFilter { machine: queued(1).machine_id().cloned(), ..JobFilter::default() };
    assert_eq!(
        store.jobs(&of_machine, None, 10).await.unwrap().items,
        [queued(1)],
        "schema {schema}"
    );
    let found = store.find_key(&key("/jobs")).await.unwrap().map(|stored| stored.owner);
    assert_eq!(found, Some(KeyOwner::Job(second.id)), "schema {schema}");
    if schema >= WITH_TOKENS {
        let tokens = store.tokens().await.unwrap();
        let revoked: Vec<_> =
            tokens.iter().map(|token| (token.name.as_str(), token.revoked_at.is_some())).collect();
        assert_eq!(revoked, [("token-1", false), ("token-2", true)], "schema {schema}");
        assert_eq!(tokens[0].digest.0, [1; 32]);
    }
    if schema >= WITH_LEASES {
        let open: Vec<_> =
            store.open_leases().await.unwrap().iter().map(|lease| lease.id).collect();
        let expected = [9, 4, 2].map(|n| lease(n, LeaseState::Queued, None).id);
        assert_eq!(open, expected, "in order of arrival, schema {schema}");
        let released = lease(7, LeaseState::Released, Some(start()));
        assert_eq!(store.lease(released.id).await.unwrap(), Some(released), "schema {schema}");
        let found = store.find_key(&key("/leases")).await.unwrap().map(|stored| stored.owner);
        assert_eq!(found, Some(KeyOwner::Lease(expected[1])), "schema {schema}");
        let machines = store.stored_machines().await.unwrap();
        assert_eq!(machines["uuid:4"].fence, 41, "schema {schema}");
        assert!(machines["uuid:4"].last_lease_end.is_some(), "schema {schema}");
        assert_eq!(machines["uuid:5"].quarantine, Some(quarantine()), "schema {schema}");
    }
    let floor = if schema >= WITH_FENCE_FLOOR { 1_000_041 } else { 0 };
    assert_eq!(store.fence_floor().await.unwrap(), floor, "schema {schema}");
}

#[tokio::test]
async fn a_filled_database_of_every_schema_is_copied_and_migrated() {
    for schema in MIGRATIONS.iter().map(|migration| migration.version) {
        let directory = TempDir::new().unwrap();
        filled(directory.path(), schema).await;
        let store = Store::open(directory.path()).await.unwrap();
        assert_complete(&store, schema).await;
        drop(store);
        let copy = directory.path().join(format!("otter.db.before-{schema}"));
        assert_eq!(copy.exists(), schema < schema::current(), "schema {schema}");
        if !copy.exists() {
            continue;
        }
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // The copy that the migration left is a complete database of the earlier schema.
        let again = TempDir::new().unwrap();
        std::fs::copy(&copy, again.path().join("otter.db")).unwrap();
        let error =
            Store::open_shared(again.path()).await.err().expect("the copy has an earlier schema");
        assert!(
            matches!(error, StoreError::OlderDatabase { found, .. } if found == schema),
            "{error}"
        );
        assert_complete(&Store::open(again.path()).await.unwrap(), schema).await;
    }
}

#[tokio::test]
async fn a_different_copy_of_an_earlier_migration_is_kept() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str| directory.path().join(name);
    let migrated_again = async || {
        std::fs::remove_file(file("otter.db")).unwrap();
        filled(directory.path(), 3).await;
        drop(Store::open(directory.path()).await.unwrap());
    };
    filled(directory.path(), 3).await;
    drop(Store::open(directory.path()).await.unwrap());
    let first = std::fs::read(file("otter.db.before-3")).unwrap();
    std::fs::write(file("otter.db.before-3"), "another copy").unwrap();
    migrated_again().await;
    assert_eq!(std::fs::read_to_string(file("otter.db.before-3.old")).unwrap(), "another copy");
    assert_eq!(std::fs::read(file("otter.db.before-3")).unwrap().len(), first.len());
    // A second start, for example after a crash, makes an equal copy again. It keeps the copy that
    // an earlier migration left.
    let store = Store::open(directory.path()).await.unwrap();
    drop(store);
    assert_eq!(std::fs::read_to_string(file("otter.db.before-3.old")).unwrap(), "another copy");
    assert!(!file("otter.db.before-3.new").exists());
}

#[tokio::test]
async fn the_order_of_leases_does_not_depend_on_the_order_of_rows() {
    let directory = TempDir::new().unwrap();
    filled(directory.path(), schema::current()).await;
    let mut connection = connection(directory.path()).await;
    run(&mut connection, "UPDATE leases SET rowid = 1000 - rowid".to_owned()).await;
    run(&mut connection, "VACUUM".to_owned()).await;
    connection.close().await.unwrap();
    assert_complete(&Store::open(directory.path()).await.unwrap(), schema::current()).await;
}

/// If a migration would leave a row that refers to nothing, the migration changes nothing.
#[tokio::test]
async fn a_migration_with_a_broken_reference_is_rolled_back() {
    let directory = TempDir::new().unwrap();
    filled(directory.path(), 3).await;
    let mut connection = connection(directory.path()).await;
    run(&mut connection, "UPDATE lease_keys SET lease = 'gone'".to_owned()).await;
    let error = Store::open(directory.path()).await.err().expect("it must be refused");
    assert!(
        error
            .to_string()
            .contains("a row of lease_keys refers to a row of leases that does not exist"),
        "{error}"
    );
    let version: i64 = sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(version, 3);
}

#[tokio::test]
async fn only_the_daemon_creates_or_migrates_a_database() {
    let directory = TempDir::new().unwrap();
    let error = Store::open_shared(directory.path()).await.err().expect("there is no database");
    assert!(matches!(error, StoreError::NoDatabase { .. }), "{error}");
    let missing = directory.path().join("missing");
    let error = Store::open_or_create_shared(&missing).await.err().expect("there is no directory");
    assert!(matches!(error, StoreError::NoStateDirectory { .. }) && !missing.exists(), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    filled(directory.path(), 3).await;
    for opened in [
        Store::open_shared(directory.path()).await,
        Store::open_or_create_shared(directory.path()).await,
    ] {
        let error = opened.err().expect("the database has another schema");
        assert!(error.to_string().contains("has schema 3"), "{error}");
    }
    let archive = directory.path().join("otter.tar");
    let refusals = [
        backup(directory.path(), &archive, start()).await.unwrap_err(),
        check(directory.path()).await.unwrap_err(),
        compact(directory.path()).await.unwrap_err(),
    ];
    for error in refusals {
        assert!(matches!(error, StoreError::OlderDatabase { found: 3, .. }), "{error}");
    }
    assert!(!archive.exists());
}
