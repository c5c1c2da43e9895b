//! Who may import whom. Commands go down: api → service → {hypervisor, storage} → domain; facts
//! come up through the seam. What a room may name is here in full; a room without a rule is
//! refused.

use std::path::Path;

use super::module;
use super::paths::{Named, named};

/// A room, and what it may name beside itself: whole rooms, or paths within one.
struct Rule {
    room: &'static str,
    may: &'static [&'static str],
}

const RULES: &[Rule] = &[
    // The values of the rooms below the service, but neither the storage nor the host themselves.
    Rule {
        room: "api",
        may: &[
            "service",
            "domain",
            "clock",
            "supervisor",
            "connection_stream",
            "telemetry",
            "fail_points",
            "storage::AuditCursor",
            "storage::AuditEntry",
            "storage::AuditFilter",
            "storage::AuditPage",
            "storage::IdempotencyKey",
            "storage::JobCursor",
            "storage::JobFilter",
            "storage::JobPage",
            "storage::LeaseFilter",
            "hypervisor::Capability",
            "hypervisor::HostErrorKind",
            "hypervisor::HostProduct",
            "hypervisor::SessionState",
            "hypervisor::SessionStatus",
        ],
    },
    Rule {
        room: "service",
        may: &[
            "hypervisor",
            "storage",
            "domain",
            "clock",
            "supervisor",
            "telemetry",
            "fail_points",
        ],
    },
    Rule { room: "hypervisor", may: &["domain"] },
    // What is audited is logged once it is committed.
    Rule { room: "storage", may: &["domain", "telemetry::audit"] },
    Rule { room: "store", may: &["storage", "domain"] },
    Rule { room: "domain", may: &[] },
    Rule { room: "esx", may: &["hypervisor", "domain", "supervisor", "clock", "telemetry"] },
    // Never the backend's envelopes: one misunderstanding in both would pass every test.
    Rule { room: "simulator", may: &["domain", "clock", "connection_stream", "esx::soap::xml"] },
    Rule { room: "web", may: &[] },
    Rule { room: "clock", may: &[] },
    Rule { room: "connection_stream", may: &[] },
    Rule { room: "fail_points", may: &[] },
    Rule { room: "telemetry", may: &["domain"] },
    Rule { room: "config", may: &["domain"] },
    Rule { room: "supervisor", may: &["clock"] },
    Rule { room: "main", may: &["cli", "fail_points"] },
];

/// The rooms that see all others: they put them together.
const WIRING: &[&str] = &["app", "cli", "lib"];

/// The rooms whose unit tests run over a database in memory, and what these may name for it.
const OVER_STORAGE: &[&str] = &["api", "service"];
const IN_TESTS: &[&str] = &["store::Store", "storage::Storage"];

/// What a file names that it may not.
fn violations(file: &Path, text: &str) -> Vec<String> {
    let module = module(file);
    let room = module[0].as_str();
    if WIRING.contains(&room) {
        return Vec::new();
    }
    let Some(Rule { may, .. }) = RULES.iter().find(|rule| rule.room == room) else {
        return vec![format!("{}: there is no rule for the room {room}: add one", file.display())];
    };
    let module: Vec<&str> = module.iter().map(String::as_str).collect();
    let is_allowed = |named: &Named| {
        let in_tests =
            OVER_STORAGE.contains(&room) && named.scope.iter().any(|part| part == "tests");
        let also = if in_tests { IN_TESTS } else { &[] };
        may.iter().chain(also).any(|allowed| is_within(&named.path, allowed))
    };
    named(&module, text)
        .into_iter()
        .filter(|named| named.path[0] != room && !is_allowed(named))
        .map(|Named { path, line, .. }| {
            format!("{}:{line}: {room} must not name {}", file.display(), path.join("::"))
        })
        .collect()
}

fn is_within(path: &[String], allowed: &str) -> bool {
    let allowed: Vec<&str> = allowed.split("::").collect();
    path.len() >= allowed.len() && path.iter().zip(&allowed).all(|(part, allowed)| part == allowed)
}

#[test]
fn the_rooms_keep_to_their_doors() {
    let found: Vec<String> =
        super::sources().iter().flat_map(|(file, text)| violations(file, text)).collect();
    assert!(found.is_empty(), "{}\nsee tests/house/imports.rs", found.join("\n"));
}

#[test]
fn each_rule_catches_who_breaks_it() {
    for (file, text, culprit) in [
        ("api/machines/list.rs", "use crate::store::Store;", "store::Store"),
        ("api/machines/list.rs", "use crate::storage::{JobFilter, Storage};", "storage::Storage"),
        ("service/jobs/mod.rs", "use crate::store::Store;", "store::Store"),
        ("service/jobs/tests/fake.rs", "use crate::store::StoreError;", "store::StoreError"),
        ("storage/mod.rs", "use crate::store::Store;", "store::Store"),
        ("storage/mod.rs", "use crate::service::jobs;", "service::jobs"),
        ("api/machines/list.rs", "use crate::hypervisor::*;", "hypervisor::*"),
        ("api/machines/list.rs", "use super::super::super::esx::session;", "esx::session"),
        ("api/mod.rs", "fn f() { crate::app::run() }", "app::run"),
        ("service/jobs/run.rs", "use crate::api::problem;", "api::problem"),
        ("service/mod.rs", "use crate::esx;", "esx"),
        ("hypervisor/mod.rs", "use crate::esx::Backend;", "esx::Backend"),
        ("hypervisor/mod.rs", "use crate::clock::Clock;", "clock::Clock"),
        ("store/jobs.rs", "use crate::service::jobs;", "service::jobs"),
        ("store/jobs.rs", "use crate::hypervisor::HostError;", "hypervisor::HostError"),
        ("domain/job.rs", "use crate::clock::Clock;", "clock::Clock"),
        ("domain/job.rs", "use super::super::store::Store;", "store::Store"),
        ("esx/session.rs", "use crate::service::Feed;", "service::Feed"),
        ("esx/session.rs", "use crate::simulator::World;", "simulator::World"),
        ("esx/session.rs", "mod tests { use crate::simulator::World; }", "simulator::World"),
        ("simulator/soap.rs", "use crate::esx::soap::request;", "esx::soap::request"),
        ("simulator/soap.rs", "use crate::esx::soap::{xml::Writer, fault};", "esx::soap::fault"),
        ("simulator/soap.rs", "use crate::esx::*;", "esx::*"),
        ("simulator/soap.rs", "use crate::hypervisor::Facts;", "hypervisor::Facts"),
        ("web/mod.rs", "use crate::domain::job::Job;", "domain::job::Job"),
        ("clock.rs", "use crate::domain::ids::JobId;", "domain::ids::JobId"),
        ("telemetry/logs.rs", "use crate::config::LogFormat;", "config::LogFormat"),
        ("config/mod.rs", "use crate::esx::Verify;", "esx::Verify"),
        ("supervisor.rs", "use crate::config::Config;", "config::Config"),
        ("main.rs", "use otter::app::App;", "app::App"),
    ] {
        let found = violations(Path::new(file), text);
        let room = file.split(['/', '.']).next().unwrap();
        assert_eq!(found, [format!("{file}:1: {room} must not name {culprit}")], "{text}");
    }
    let found = violations(Path::new("leases/mod.rs"), "");
    assert_eq!(found, ["leases/mod.rs: there is no rule for the room leases: add one"]);
}

#[test]
fn what_is_allowed_passes() {
    for (file, text) in [
        (
            "api/mod.rs",
            "use crate::service::Service; use crate::storage::JobFilter; use self::problem;",
        ),
        ("api/machines/list.rs", "use super::super::problem; mod tests { use super::*; }"),
        (
            "service/mod.rs",
            "use crate::{storage::Storage, hypervisor::Hypervisor, domain::job::Job};",
        ),
        ("service/audit.rs", "mod tests { use crate::store::Store; }"),
        ("service/jobs/tests/fake.rs", "use crate::store::Store;"),
        ("simulator/soap.rs", "use crate::esx::soap::xml::{Document, Writer};"),
        (
            "domain/ids.rs",
            "/// Made by [`Clock`](crate::clock::Clock).\nuse super::machine::MachineIdentity;",
        ),
        ("clock.rs", "mod tests { use super::*; }"),
        ("main.rs", "fn main() { otter::cli::run(); }"),
        ("app.rs", "use crate::{api, esx, simulator, store};"),
    ] {
        assert_eq!(violations(Path::new(file), text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn every_room_has_a_rule_that_names_rooms_that_are() {
    let rooms: Vec<&str> = RULES.iter().map(|rule| rule.room).collect();
    for rule in RULES {
        for allowed in rule.may {
            let room = allowed.split("::").next().unwrap();
            assert!(
                rooms.contains(&room) || WIRING.contains(&room),
                "{} may name {allowed}",
                rule.room
            );
        }
    }
}
