//! Which components may import which. A component is a top-level module. Commands go down: api →
//! service → {hypervisor, storage} → domain. Facts of the host come up through the traits of
//! `hypervisor`. `RULES` lists everything that a component may name; a component without a rule is
//! a violation.

use std::path::Path;

use super::module;
use super::paths::{RootedPath, rooted_paths};

/// A component, and the paths outside of it that it may name: other components, or items of them.
struct Rule {
    component: &'static str,
    may: &'static [&'static str],
}

const RULES: &[Rule] = &[
    // `api` may import value types of the layers below the service, but neither the interface of
    // the storage nor that of the host.
    Rule {
        component: "api",
        may: &[
            "service",
            "domain",
            "clock",
            "supervisor",
            "connection_stream",
            "telemetry",
            "fail_points",
            "storage::ArtifactFilter",
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
        component: "service",
        may: &[
            "hypervisor",
            "storage",
            "domain",
            "rfb",
            "clock",
            "supervisor",
            "telemetry",
            "fail_points",
        ],
    },
    Rule { component: "hypervisor", may: &["domain"] },
    // The storage logs an audit record once the record is committed.
    Rule { component: "storage", may: &["domain", "telemetry::audit"] },
    Rule { component: "store", may: &["storage", "domain"] },
    Rule { component: "domain", may: &[] },
    Rule {
        component: "esx",
        may: &["hypervisor", "domain", "telnet", "supervisor", "clock", "telemetry"],
    },
    // The simulator must not use the SOAP messages of the backend, nor the codecs of RFB and
    // telnet, because an error in them would pass every test.
    Rule {
        component: "simulator",
        may: &["domain", "clock", "connection_stream", "esx::soap::xml", "rfb::constants"],
    },
    Rule { component: "rfb", may: &["domain"] },
    Rule { component: "telnet", may: &[] },
    Rule { component: "web", may: &[] },
    Rule { component: "clock", may: &[] },
    Rule { component: "connection_stream", may: &[] },
    Rule { component: "fail_points", may: &[] },
    Rule { component: "telemetry", may: &["domain"] },
    Rule { component: "config", may: &["domain"] },
    Rule { component: "supervisor", may: &["clock"] },
    Rule { component: "main", may: &["cli", "fail_points"] },
];

/// The components that may import all others, because they combine them.
const WIRING: &[&str] = &["app", "cli", "lib"];

/// The components whose unit tests run over a database in memory, and the items that these tests
/// may import for it.
const OVER_STORAGE: &[&str] = &["api", "service"];
const IN_TESTS: &[&str] = &["store::Store", "storage::Storage"];

/// The imports of a file that its rule does not allow.
fn violations(file: &Path, text: &str) -> Vec<String> {
    let module = module(file);
    let component = module[0].as_str();
    if WIRING.contains(&component) {
        return Vec::new();
    }
    let Some(Rule { may, .. }) = RULES.iter().find(|rule| rule.component == component) else {
        return vec![format!(
            "{}: there is no rule for the component {component}: add one",
            file.display()
        )];
    };
    let module: Vec<&str> = module.iter().map(String::as_str).collect();
    let is_allowed = |named: &RootedPath| {
        let in_tests =
            OVER_STORAGE.contains(&component) && named.scope.iter().any(|part| part == "tests");
        let also = if in_tests { IN_TESTS } else { &[] };
        may.iter().chain(also).any(|allowed| is_within(&named.path, allowed))
    };
    rooted_paths(&module, text)
        .into_iter()
        .filter(|named| named.path[0] != component && !is_allowed(named))
        .map(|RootedPath { path, line, .. }| {
            format!("{}:{line}: {component} must not name {}", file.display(), path.join("::"))
        })
        .collect()
}

fn is_within(path: &[String], allowed: &str) -> bool {
    let allowed: Vec<&str> = allowed.split("::").collect();
    path.len() >= allowed.len() && path.iter().zip(&allowed).all(|(part, allowed)| part == allowed)
}

#[test]
fn components_import_only_what_their_rule_allows() {
    let found: Vec<String> =
        super::sources().iter().flat_map(|(file, text)| violations(file, text)).collect();
    assert!(found.is_empty(), "{}\nsee tests/house/imports.rs", found.join("\n"));
}

#[test]
fn each_rule_reports_a_violation() {
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
        ("esx/session.rs", "use crate::service::EventStream;", "service::EventStream"),
        ("esx/session.rs", "use crate::simulator::World;", "simulator::World"),
        ("esx/session.rs", "mod tests { use crate::simulator::World; }", "simulator::World"),
        ("simulator/soap.rs", "use crate::esx::soap::request;", "esx::soap::request"),
        ("simulator/soap.rs", "use crate::esx::soap::{xml::Writer, fault};", "esx::soap::fault"),
        ("simulator/soap.rs", "use crate::esx::*;", "esx::*"),
        ("simulator/soap.rs", "use crate::hypervisor::Facts;", "hypervisor::Facts"),
        ("simulator/console.rs", "use crate::rfb::ServerStream;", "rfb::ServerStream"),
        ("rfb/server_stream.rs", "use crate::clock::Clock;", "clock::Clock"),
        ("web/mod.rs", "use crate::domain::job::Job;", "domain::job::Job"),
        ("clock.rs", "use crate::domain::ids::JobId;", "domain::ids::JobId"),
        ("telemetry/logs.rs", "use crate::config::LogFormat;", "config::LogFormat"),
        ("config/mod.rs", "use crate::esx::Verify;", "esx::Verify"),
        ("supervisor.rs", "use crate::config::Config;", "config::Config"),
        ("main.rs", "use otter::app::App;", "app::App"),
    ] {
        let found = violations(Path::new(file), text);
        let component = file.split(['/', '.']).next().unwrap();
        assert_eq!(found, [format!("{file}:1: {component} must not name {culprit}")], "{text}");
    }
    let found = violations(Path::new("leases/mod.rs"), "");
    assert_eq!(found, ["leases/mod.rs: there is no rule for the component leases: add one"]);
}

#[test]
fn allowed_imports_pass() {
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
        ("simulator/console.rs", "use crate::rfb::constants::ENCODING_RAW;"),
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
fn rules_name_only_existing_components() {
    let components: Vec<&str> = RULES.iter().map(|rule| rule.component).collect();
    for rule in RULES {
        for allowed in rule.may {
            let component = allowed.split("::").next().unwrap();
            assert!(
                components.contains(&component) || WIRING.contains(&component),
                "{} may name {allowed}",
                rule.component
            );
        }
    }
}
