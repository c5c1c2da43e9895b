//! The table of artifacts. The bytes of an artifact are in a file that `service::artifacts` keeps.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::transaction::{Transaction, Write};
use super::{Reader, Store, audit, microseconds};
use crate::domain::artifact::{Artifact, ArtifactName, ArtifactSource, ContentType, Sha256Sum};
use crate::domain::audit::AuditRecord;
use crate::domain::ids::{ArtifactId, LeaseId, MachineId};
use crate::domain::machine::MachineIdentity;
use crate::storage::{ArtifactFilter, ArtifactOrder, ArtifactStorage, StorageError};

const INSERT: &str = "INSERT INTO artifacts (id, name, lease, machine, instance_uuid, \
     machine_path, machine_name, pool, reference, requested_by, content_type, bytes, sha256, \
     created_at, source) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";

#[async_trait]
impl ArtifactStorage for Store {
    async fn commit_new_artifact(
        &self,
        artifact: &Artifact,
        audit: AuditRecord,
    ) -> Result<(), StorageError> {
        self.write(InsertArtifact { artifact: artifact.clone(), audit }).await
    }

    async fn commit_deleted_artifact(
        &self,
        id: ArtifactId,
        audit: AuditRecord,
    ) -> Result<bool, StorageError> {
        self.write(DeleteArtifact { id, audit }).await
    }

    async fn artifact(&self, id: ArtifactId) -> Result<Option<Artifact>, StorageError> {
        let mut reader = self.read().await?;
        let row = sqlx::query("SELECT * FROM artifacts WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(reader.statement())
            .await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    async fn artifact_named(
        &self,
        lease: LeaseId,
        name: &ArtifactName,
    ) -> Result<Option<Artifact>, StorageError> {
        let mut reader = self.read().await?;
        let row = sqlx::query("SELECT * FROM artifacts WHERE lease = $1 AND name = $2")
            .bind(lease.to_string())
            .bind(name.as_str())
            .fetch_optional(reader.statement())
            .await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    async fn artifacts(
        &self,
        filter: &ArtifactFilter,
        order: ArtifactOrder,
        after: Option<ArtifactId>,
        limit: u32,
    ) -> Result<Vec<Artifact>, StorageError> {
        list(&mut self.read().await?, filter, order, after, limit).await
    }
}

/// A write that adds an artifact and its audit record.
struct InsertArtifact {
    artifact: Artifact,
    audit: AuditRecord,
}

#[async_trait]
impl Write for InsertArtifact {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        let Artifact {
            id,
            name,
            lease,
            machine,
            machine_name,
            pool,
            reference,
            requested_by,
            content_type,
            bytes,
            sha256,
            created_at,
            source,
        } = &self.artifact;
        let machine = machine.as_ref();
        sqlx::query(INSERT)
            .bind(id.to_string())
            .bind(name.as_str())
            .bind(lease.to_string())
            .bind(machine.map(|machine| machine.id.backend_text()))
            .bind(machine.and_then(|machine| machine.instance_uuid.as_deref()))
            .bind(machine.and_then(|machine| machine.path.as_deref()))
            .bind(machine_name)
            .bind(pool)
            .bind(reference)
            .bind(requested_by)
            .bind(content_type.as_str())
            .bind(i64::try_from(*bytes).unwrap_or(i64::MAX))
            .bind(sha256.to_string())
            .bind(microseconds(*created_at))
            .bind(source.as_str())
            .execute(transaction.statement())
            .await?;
        audit::append(transaction, std::slice::from_ref(&self.audit)).await
    }
}

/// A write that deletes an artifact, and adds the audit record if there was one.
struct DeleteArtifact {
    id: ArtifactId,
    audit: AuditRecord,
}

#[async_trait]
impl Write for DeleteArtifact {
    /// Whether the artifact existed.
    type Output = bool;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<bool, sqlx::Error> {
        let deleted = sqlx::query("DELETE FROM artifacts WHERE id = $1")
            .bind(self.id.to_string())
            .execute(transaction.statement())
            .await?;
        let existed = deleted.rows_affected() > 0;
        if existed {
            audit::append(transaction, std::slice::from_ref(&self.audit)).await?;
        }
        Ok(existed)
    }
}

async fn list(
    reader: &mut Reader<'_>,
    filter: &ArtifactFilter,
    order: ArtifactOrder,
    after: Option<ArtifactId>,
    limit: u32,
) -> Result<Vec<Artifact>, StorageError> {
    let ArtifactFilter { lease, reference, machine, requested_by } = filter;
    let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM artifacts WHERE 1 = 1");
    let columns = [
        (" AND lease = ", lease.map(|lease| lease.to_string())),
        (" AND reference = ", reference.clone()),
        (" AND machine = ", machine.as_ref().map(ToString::to_string)),
        (" AND requested_by = ", requested_by.clone()),
    ];
    for (column, value) in columns {
        if let Some(value) = value {
            query.push(column).push_bind(value);
        }
    }
    let (following, sorted) = match order {
        ArtifactOrder::NewestFirst => (" AND id < ", " ORDER BY id DESC LIMIT "),
        ArtifactOrder::OldestFirst => (" AND id > ", " ORDER BY id LIMIT "),
    };
    if let Some(after) = after {
        query.push(following).push_bind(after.to_string());
    }
    query.push(sorted).push_bind(i64::from(limit));
    let rows = query.build().fetch_all(reader.statement()).await?;
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

fn read(row: &SqliteRow) -> Result<Artifact, sqlx::Error> {
    let machine: Option<&str> = row.try_get("machine")?;
    let bytes: i64 = row.try_get("bytes")?;
    let id = |column: &str| -> Result<uuid::Uuid, sqlx::Error> {
        row.try_get::<&str, _>(column)?.parse().map_err(|_| damaged(column))
    };
    let mut sha256 = [0; 32];
    hex::decode_to_slice(row.try_get::<&str, _>("sha256")?, &mut sha256)
        .map_err(|_| damaged("sha256"))?;
    Ok(Artifact {
        id: ArtifactId::new(id("id")?),
        name: ArtifactName::parse(row.try_get("name")?).map_err(|_| damaged("name"))?,
        lease: LeaseId::new(id("lease")?),
        machine: match machine {
            Some(machine) => Some(MachineIdentity {
                id: MachineId::from_backend(machine),
                instance_uuid: row.try_get("instance_uuid")?,
                path: row.try_get("machine_path")?,
            }),
            None => None,
        },
        machine_name: row.try_get("machine_name")?,
        pool: row.try_get("pool")?,
        reference: row.try_get("reference")?,
        requested_by: row.try_get("requested_by")?,
        content_type: ContentType::of(row.try_get("content_type")?),
        bytes: u64::try_from(bytes).unwrap_or_default(),
        sha256: Sha256Sum(sha256),
        created_at: Timestamp::from_microsecond(row.try_get("created_at")?)
            .map_err(|_| damaged("created_at"))?,
        source: ArtifactSource::parse(row.try_get("source")?).ok_or_else(|| damaged("source"))?,
    })
}

fn damaged(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("the column {column} of an artifact is damaged").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::{AuditAction, AuditOutcome};

    fn record() -> AuditRecord {
        AuditRecord::new(Timestamp::UNIX_EPOCH, AuditAction::ArtifactStored, AuditOutcome::Done)
    }

    fn artifact(number: u128, lease: u128, name: &str) -> Artifact {
        let uuid = uuid::Uuid::from_u128;
        Artifact {
            id: ArtifactId::new(uuid(number)),
            name: ArtifactName::parse(name).unwrap(),
            lease: LeaseId::new(uuid(lease)),
            machine: Some(MachineIdentity {
                id: MachineId::from_backend("16"),
                instance_uuid: Some("aa-1".to_owned()),
                path: None,
            }),
            machine_name: Some("windows".to_owned()),
            pool: None,
            reference: Some(format!("run {lease}")),
            requested_by: "ci".to_owned(),
            content_type: ContentType::Png,
            bytes: 4_294_967_296,
            sha256: Sha256Sum([0xa5; 32]),
            created_at: Timestamp::from_second(1_700_000_000).unwrap(),
            source: ArtifactSource::Otter,
        }
    }

    #[tokio::test]
    async fn artifacts_are_stored_listed_and_deleted() {
        let store = Store::in_memory().await.unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        let writer = tokio::spawn({
            let (store, stop) = (store.clone(), stop.clone());
            async move { store.run(stop).await }
        });
        let all = [artifact(1, 7, "a"), artifact(2, 7, "b"), artifact(3, 8, "a")];
        for artifact in &all {
            store.insert_artifact(artifact, record()).await.unwrap();
        }
        let twice = store.insert_artifact(&artifact(4, 7, "a"), record()).await;
        assert!(matches!(twice, Err(StorageError::Conflict(_))), "{twice:?}");
        let [first, second, third] = &all;
        assert_eq!(store.artifact(first.id).await.unwrap().as_ref(), Some(first));
        let named = store.artifact_named(third.lease, &third.name).await.unwrap();
        assert_eq!(named.as_ref(), Some(third));

        let list = async |filter: ArtifactFilter, order, after, limit| {
            store.artifacts(&filter, order, after, limit).await.unwrap()
        };
        let any = ArtifactFilter::default();
        let newest = list(any.clone(), ArtifactOrder::NewestFirst, None, 2).await;
        assert_eq!(newest, [third.clone(), second.clone()]);
        let rest = list(any.clone(), ArtifactOrder::NewestFirst, Some(second.id), 2).await;
        assert_eq!(rest, std::slice::from_ref(first));
        let oldest = list(any.clone(), ArtifactOrder::OldestFirst, Some(first.id), 9).await;
        assert_eq!(oldest, [second.clone(), third.clone()]);
        let of_run = ArtifactFilter { reference: Some("run 8".to_owned()), ..any.clone() };
        let of_run = list(of_run, ArtifactOrder::OldestFirst, None, 9).await;
        assert_eq!(of_run, std::slice::from_ref(third));
        let of_other = ArtifactFilter { requested_by: Some("you".to_owned()), ..any };
        assert_eq!(list(of_other, ArtifactOrder::OldestFirst, None, 9).await, []);

        assert!(store.delete_artifact(first.id, record()).await.unwrap());
        assert!(!store.delete_artifact(first.id, record()).await.unwrap());
        assert_eq!(store.artifact(first.id).await.unwrap(), None);
        stop.cancel();
        writer.await.unwrap().unwrap();
    }
}
