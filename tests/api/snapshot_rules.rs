//! The rules for changes of snapshots: every caller × every kind of snapshot × every change, with
//! and without an override; patterns of paths and pools; and changes between acceptance and host
//! call.

use std::collections::BTreeMap;

use otter::app::Settings;
use otter::clock::Clock;
use otter::domain::pool::{Pool, Pools};
use otter::service::snapshots::SnapshotSettings;
use otter::simulator::world::PowerState;
use otter::simulator::{Control, Disruption, Pace, TestHook};
use reqwest::Method;
use serde_json::{Value, json};

use super::tokens::Guarded;
use crate::harness::{Answer, Lab, LabOptions, encode, eventually};

/// The machine of the tests.
const MACHINE: &str = "16";
const PROTECTED: &str = "kickstart";

fn protect(settings: &mut Settings) {
    settings.snapshots.protected = vec![PROTECTED.to_owned()];
}

/// The change that a caller requests for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Create,
    Rename,
    RenameToProtected,
    Describe,
    Remove,
    RemoveChildren,
    RemoveAll,
}

const CHANGES: [Change; 7] = [
    Change::Create,
    Change::Rename,
    Change::RenameToProtected,
    Change::Describe,
    Change::Remove,
    Change::RemoveChildren,
    Change::RemoveAll,
];

/// The owner of the snapshot that the change covers. For a change that creates a snapshot, the name
/// of the new snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Protected,
    /// Created by the caller, under its lease if it is a runner.
    Own,
    Foreign,
    /// Created under a lease that has ended.
    EarlierLease,
}

const KINDS: [Kind; 4] = [Kind::Protected, Kind::Own, Kind::Foreign, Kind::EarlierLease];

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Protected => PROTECTED,
            Self::Own => "own",
            Self::Foreign => "foreign",
            Self::EarlierLease => "earlier",
        }
    }
}

/// Whether the rules allow a change.
fn is_allowed(role: &str, kind: Kind, change: Change, with_override: bool) -> bool {
    let makes_protected = change == Change::RenameToProtected;
    match role {
        "viewer" => false,
        // Only operators may send the override header.
        "runner" if with_override => false,
        "runner" => match change {
            Change::Create => kind != Kind::Protected,
            _ => kind == Kind::Own && !makes_protected,
        },
        _ => kind != Kind::Protected || with_override || change == Change::Create,
    }
}

/// A caller of the tests.
struct Caller<'a> {
    lab: &'a Lab,
    guarded: Option<&'a Guarded>,
    role: &'static str,
    /// The lease of a runner, for the header `Otter-Lease`.
    lease: Option<Value>,
}

impl Caller<'_> {
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = match self.guarded {
            Some(guarded) => guarded.request(self.role, method, path),
            None => self.lab.request(method, path),
        };
        match &self.lease {
            Some(lease) => request.header("otter-lease", lease_header(lease)),
            None => request,
        }
    }

    async fn get(&self, path: &str) -> Value {
        Answer::from_request(self.request(Method::GET, path)).await.expect(200).json
    }

    async fn take(&mut self) {
        let body = json!({"select": {"machine": MACHINE}, "ttl": "30m"});
        let asked = self.request(Method::POST, "/v1/leases").json(&body);
        self.lease = Some(Answer::from_request(asked).await.expect(201).json);
    }

    async fn give_back(&mut self) {
        let path =
            format!("/v1/leases/{}?wait=14s", self.lease.as_ref().unwrap()["id"].as_str().unwrap());
        Answer::from_request(self.request(Method::DELETE, &path)).await.expect(200);
        self.lease = None;
    }

    /// Creates a snapshot through otter. Returns its id.
    async fn make(&self, name: &str) -> String {
        let path = on("/snapshots?wait=14s");
        let made = self.request(Method::POST, &path).json(&json!({"name": name}));
        let made = Answer::from_request(made).await.expect(200).json;
        made["result"]["snapshot"].as_str().unwrap().to_owned()
    }

    /// The names of the machine's snapshots.
    async fn names(&self) -> Vec<String> {
        let list = self.get(&on("/snapshots")).await;
        let names =
            list["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    /// Waits until otter shows these snapshots.
    async fn shows(&self, names: &[&str]) {
        eventually("the snapshots to be shown", async || self.names().await == names).await;
    }

    /// Creates the snapshot to change as a child of a snapshot of the caller. Returns the ids of
    /// both.
    async fn stage(&mut self, kind: Kind) -> (String, String) {
        self.lab.control().mutate(|world| {
            let machine = world.machine_mut(MACHINE).unwrap();
            machine.snapshots.clear();
            machine.current_snapshot = None;
        });
        self.shows(&[]).await;
        let earlier = if kind == Kind::EarlierLease && self.role != "viewer" {
            self.take().await;
            let earlier = self.make(kind.name()).await;
            self.give_back().await;
            Some(earlier)
        } else {
            None
        };
        if self.role == "viewer" {
            let at = Clock::system().now();
            let ids = self.lab.control().mutate(|world| {
                let machine = world.machine_mut(MACHINE).unwrap();
                let top = machine.add_snapshot(None, "top", PowerState::Off, at);
                let target = machine.add_snapshot(Some(&top), kind.name(), PowerState::Off, at);
                (top, target)
            });
            self.shows(&["top", kind.name()]).await;
            return ids;
        }
        if self.role == "runner" {
            self.take().await;
        }
        let top = self.make("top").await;
        let target = match (kind, earlier) {
            (Kind::Own, _) => self.make(kind.name()).await,
            (_, Some(earlier)) => {
                // Moves the snapshot below `top`, which was created later.
                self.lab.control().mutate(|world| {
                    let machine = world.machine_mut(MACHINE).unwrap();
                    machine.snapshots.reverse();
                    machine.snapshots[0].parent = None;
                    machine.snapshots[1].parent = Some(top.clone());
                });
                earlier
            }
            (_, None) => {
                let at = Clock::system().now();
                self.lab.control().mutate(|world| {
                    let machine = world.machine_mut(MACHINE).unwrap();
                    machine.add_snapshot(Some(&top), kind.name(), PowerState::Off, at)
                })
            }
        };
        self.shows(&["top", kind.name()]).await;
        (top, target)
    }

    async fn attempt(
        &self,
        change: Change,
        kind: Kind,
        ids: &(String, String),
        over: bool,
    ) -> Answer {
        let (top, target) = ids;
        let of = |id: &str, rest: &str| on(&format!("/snapshots/{}{rest}", encode(id)));
        let (method, path, body) = match change {
            Change::Create => {
                let name = if kind == Kind::Protected { PROTECTED } else { "free" };
                (Method::POST, on("/snapshots?wait=14s"), json!({"name": name}))
            }
            Change::Rename => (Method::PATCH, of(target, ""), json!({"name": "renamed"})),
            Change::RenameToProtected => {
                (Method::PATCH, of(target, ""), json!({"name": PROTECTED}))
            }
            Change::Describe => {
                (Method::PATCH, of(target, ""), json!({"description": "described"}))
            }
            Change::Remove => (Method::DELETE, of(target, "?wait=14s"), Value::Null),
            Change::RemoveChildren => {
                (Method::DELETE, of(top, "?children=true&wait=14s"), Value::Null)
            }
            Change::RemoveAll => (Method::DELETE, on("/snapshots?all=true&wait=14s"), Value::Null),
        };
        let mut request = self.request(method, &path);
        if over {
            request = request.header("otter-override", "the disk is full");
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        Answer::from_request(request).await
    }

    /// Checks every change of every kind of snapshot by this caller.
    async fn check_row(&mut self) {
        for kind in KINDS {
            for change in CHANGES {
                for over in [false, true] {
                    let ids = self.stage(kind).await;
                    self.check_cell(kind, change, over, &ids).await;
                    if self.lease.is_some() {
                        self.give_back().await;
                    }
                }
            }
        }
    }

    async fn check_cell(&self, kind: Kind, change: Change, over: bool, ids: &(String, String)) {
        let cell = format!("{} {kind:?} {change:?} override {over}", self.role);
        let before = (change_calls(self.lab), self.names().await);
        let answer = self.attempt(change, kind, ids, over).await;
        if is_allowed(self.role, kind, change, over) {
            assert_eq!(answer.status, 200, "{cell}: {}", answer.text);
            let names = self.names().await;
            match change {
                Change::Create => assert_eq!(names.len(), 3, "{cell}"),
                Change::Rename => assert_eq!(names, ["top", "renamed"], "{cell}"),
                Change::RenameToProtected => assert_eq!(names, ["top", PROTECTED], "{cell}"),
                Change::Describe => assert_eq!(answer.str("description"), "described", "{cell}"),
                Change::Remove => assert_eq!(names, ["top"], "{cell}"),
                Change::RemoveChildren | Change::RemoveAll => assert!(names.is_empty(), "{cell}"),
            }
            return;
        }
        assert_eq!(
            (answer.status, answer.str("code")),
            (403, "forbidden"),
            "{cell}: {}",
            answer.text
        );
        if self.role != "viewer" && !(self.role == "runner" && over) {
            let named = if change == Change::RenameToProtected && kind == Kind::Own {
                PROTECTED
            } else {
                kind.name()
            };
            let detail = answer.str("detail");
            assert!(detail.contains(named), "{cell}: {detail}");
            assert_eq!(answer.str("machine"), MACHINE, "{cell}");
        }
        assert_eq!(
            (change_calls(self.lab), self.names().await),
            before,
            "{cell}: nothing was done"
        );
    }
}

fn on(rest: &str) -> String {
    format!("/v1/machines/{MACHINE}{rest}")
}

fn lease_header(lease: &Value) -> String {
    format!("{}.{}", lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap())
}

/// The number of host calls that change snapshots.
fn change_calls(lab: &Lab) -> BTreeMap<String, u64> {
    let mut calls = lab.control().all_calls();
    calls.retain(|method, _| method.contains("Snapshot") && !method.starts_with("Retrieve"));
    calls
}

async fn check_role(role: &'static str) {
    let guarded = Guarded::with(LabOptions { settings: protect, ..LabOptions::default() }).await;
    let mut caller = Caller { lab: &guarded.lab, guarded: Some(&guarded), role, lease: None };
    caller.check_row().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_changes_no_snapshot() {
    check_role("viewer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_changes_only_unprotected_snapshots_of_its_own_lease() {
    check_role("runner").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_changes_a_protected_snapshot_only_with_an_override() {
    check_role("operator").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_changes_a_protected_snapshot_only_with_an_override() {
    check_role("admin").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_a_protected_snapshot_is_changed_only_with_an_override() {
    let lab = Lab::with_settings(protect).await;
    let mut caller = Caller { lab: &lab, guarded: None, role: "anonymous", lease: None };
    caller.check_row().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_remove_foreign_snapshots_if_it_is_configured_but_never_protected_ones() {
    let settings = |settings: &mut Settings| {
        settings.snapshots =
            SnapshotSettings { protected: vec![PROTECTED.to_owned()], runners_may_remove: true };
    };
    let guarded = Guarded::with(LabOptions { settings, ..LabOptions::default() }).await;
    let mut caller =
        Caller { lab: &guarded.lab, guarded: Some(&guarded), role: "runner", lease: None };
    for kind in KINDS {
        for change in [Change::Rename, Change::Describe, Change::RemoveChildren, Change::RemoveAll]
        {
            let ids = caller.stage(kind).await;
            let answer = caller.attempt(change, kind, &ids, false).await;
            let status = if kind == Kind::Protected { 403 } else { 200 };
            assert_eq!(answer.status, status, "{kind:?} {change:?}: {}", answer.text);
            caller.give_back().await;
        }
    }
}

/// `installed/updated/kickstart` and `installed/updated-rc/kickstart` exist from the start.
#[tokio::test(flavor = "multi_thread")]
async fn patterns_of_paths_and_pools_protect_but_allow_reverts() {
    let settings = |settings: &mut Settings| {
        settings.snapshots.protected = vec!["installed/*rc/kick?tart".to_owned()];
        let pool = |name: &str, machines: &[&str], pattern: &str| {
            let machines = machines.iter().map(|machine| machine.parse().unwrap()).collect();
            let protected_snapshots = vec![pattern.to_owned()];
            (name.to_owned(), Pool { machines, protected_snapshots, ..Pool::default() })
        };
        settings.pools = Pools(
            [
                pool("staging", &[MACHINE], "installed/updated"),
                pool("annotated", &[], "installed/updated/kickstart/base*"),
                pool("others", &["17"], "*"),
            ]
            .into(),
        );
    };
    let guarded = Guarded::with(LabOptions { settings, ..LabOptions::default() }).await;
    let mut runner =
        Caller { lab: &guarded.lab, guarded: Some(&guarded), role: "runner", lease: None };
    let removal = |path: &str| on(&format!("/snapshots/{}?wait=14s", encode(path)));
    let operator =
        Caller { lab: &guarded.lab, guarded: Some(&guarded), role: "operator", lease: None };
    for protected in ["installed/updated-rc/kickstart", "installed/updated"] {
        let answer =
            Answer::from_request(operator.request(Method::DELETE, &removal(protected))).await;
        let detail = answer.problem(403, "forbidden");
        assert!(detail.str("detail").contains(protected), "{}", detail.text);
    }
    // A change of a parent would change the path of a protected snapshot, so that the pattern no
    // longer matches.
    let above = Answer::from_request(operator.request(Method::DELETE, &removal("installed"))).await;
    let above = above.problem(403, "forbidden");
    assert!(above.str("detail").contains("installed/updated"), "{}", above.text);

    runner.take().await;
    let body = json!({"snapshot": "installed/updated-rc/kickstart"});
    let revert = runner.request(Method::POST, &on("/revert?wait=14s")).json(&body);
    Answer::from_request(revert).await.expect(200);
    runner.make("base image").await;
    let body = json!({"snapshot": "installed/updated/kickstart"});
    let revert = runner.request(Method::POST, &on("/revert?wait=14s")).json(&body);
    Answer::from_request(revert).await.expect(200);
    let base = json!({"name": "base image"});
    guarded.lab.annotate(MACHINE, "Staging.\notter.pool: annotated");
    let pooled = |machine: &Value| machine["pools"] == json!(["annotated", "staging"]);
    eventually("the pool to be shown", async || pooled(&operator.get(&on("")).await)).await;
    let create = runner.request(Method::POST, &on("/snapshots?wait=14s")).json(&base);
    let refused = Answer::from_request(create).await.problem(403, "forbidden");
    let path = "installed/updated/kickstart/base image";
    assert!(refused.str("detail").contains(path), "{}", refused.text);
    runner.give_back().await;
    let create = operator.request(Method::POST, &on("/snapshots?wait=14s")).json(&base);
    Answer::from_request(create).await.expect(200);
    let refused = Answer::from_request(operator.request(Method::DELETE, &removal(path))).await;
    refused.problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_of_a_protection_is_recorded_in_the_job_and_works_with_a_lease() {
    let lab = Lab::with_settings(protect).await;
    let mut caller = Caller { lab: &lab, guarded: None, role: "anonymous", lease: None };
    let (_, target) = caller.stage(Kind::Protected).await;
    caller.take().await;
    let path = on(&format!("/snapshots/{}?wait=14s", encode(&target)));
    let refused =
        Answer::from_request(caller.request(Method::DELETE, &path)).await.problem(403, "forbidden");
    assert!(refused.str("detail").contains("Otter-Override"), "{}", refused.text);
    let over = caller.request(Method::DELETE, &path).header("otter-override", "the disk is full");
    let job = Answer::from_request(over).await.expect(200).json;
    let lease = caller.lease.as_ref().unwrap();
    assert_eq!(job["lease"], lease["id"]);
    let warnings = job["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{job}");
    for part in ["anonymous", "top/kickstart", "the disk is full"] {
        assert!(warnings[0].as_str().unwrap().contains(part), "{job}");
    }
    // The call did not override the lease.
    let read = caller.get(&format!("/v1/leases/{}", lease["id"].as_str().unwrap())).await;
    assert_eq!(read["warnings"], json!([]));
    // An override that was not necessary is not recorded.
    let over =
        caller.request(Method::POST, &on("/snapshots?wait=14s")).json(&json!({"name": "free"}));
    let job = Answer::from_request(over.header("otter-override", "perhaps")).await.expect(200).json;
    assert_eq!(job["warnings"], json!([]));
}

/// A change of the machine between the acceptance of a removal and the host call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Race {
    ForeignSnapshotAppears,
    OwnBecomesProtected,
    MachineJoinsPool,
}

const RACES: [Race; 3] =
    [Race::ForeignSnapshotAppears, Race::OwnBecomesProtected, Race::MachineJoinsPool];

/// The removals of `own` and its children, and the host calls that they make.
const REMOVALS: [(&str, &str); 2] = [
    ("/snapshots?all=true", "RemoveAllSnapshots_Task"),
    ("/snapshots/own?children=true", "RemoveSnapshot_Task"),
];

impl Race {
    fn apply(self, control: &Control, own: &str) {
        let at = Clock::system().now();
        control.mutate(|world| {
            let machine = world.machine_mut(MACHINE).unwrap();
            match self {
                Self::ForeignSnapshotAppears => {
                    machine.add_snapshot(Some(own), "foreign", PowerState::Off, at);
                }
                Self::OwnBecomesProtected => PROTECTED.clone_into(&mut machine.snapshots[1].name),
                Self::MachineJoinsPool => "otter.pool: late".clone_into(&mut machine.annotation),
            }
        });
    }

    /// The path of the snapshot that prevents the removal after this change.
    const fn in_the_way(self) -> &'static str {
        match self {
            Self::ForeignSnapshotAppears => "own/foreign",
            Self::OwnBecomesProtected => "own/kickstart",
            Self::MachineJoinsPool => "own",
        }
    }
}

/// The pool `late` protects all snapshots that the tests of races create.
fn protect_in_a_pool(settings: &mut Settings) {
    protect(settings);
    let pool = Pool { protected_snapshots: vec!["own*".to_owned()], ..Pool::default() };
    settings.pools = Pools([("late".to_owned(), pool)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_may_no_longer_be_removed_stops_the_job_before_the_host_is_called() {
    for race in RACES {
        for (path, _) in REMOVALS {
            let plan = LabOptions {
                settings: protect_in_a_pool,
                pace: Pace::Stepped,
                ..LabOptions::default()
            };
            check_race(&Guarded::with(plan).await, race, path).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_removal_is_not_repeated_if_it_is_no_longer_allowed() {
    for race in [None].into_iter().chain(RACES.map(Some)) {
        for (path, call) in REMOVALS {
            let plan = LabOptions { settings: protect_in_a_pool, ..LabOptions::default() };
            check_lost_removal(&Guarded::with(plan).await, race, path, call).await;
        }
    }
}

/// Checks a removal whose host call is lost and has no effect. The race, if there is one, happens
/// before otter handles the lost call.
async fn check_lost_removal(guarded: &Guarded, race: Option<Race>, path: &str, call: &str) {
    let lab = &guarded.lab;
    let mut runner = Caller { lab, guarded: Some(guarded), role: "runner", lease: None };
    lab.control().mutate(|world| {
        let machine = world.machine_mut(MACHINE).unwrap();
        machine.snapshots.clear();
        machine.current_snapshot = None;
    });
    runner.shows(&[]).await;
    runner.take().await;
    let own = runner.make("own").await;
    runner.make("own below").await;
    let hand =
        TestHook::new(move |control| race.into_iter().for_each(|race| race.apply(control, &own)));
    let lost = Disruption::Hook(hand, Some(Box::new(Disruption::CloseBeforeRunning)));
    lab.control().disrupt_next(call, lost);
    let removal =
        Answer::from_request(runner.request(Method::DELETE, &on(&format!("{path}&wait=14s"))))
            .await;
    let Some(race) = race else {
        removal.expect(200);
        assert_eq!(lab.control().calls(call), 2, "{path}: a lost removal is repeated");
        return;
    };
    let detail = removal.problem(409, "outcome-unknown").str("detail").to_owned();
    assert_eq!(lab.control().calls(call), 1, "{race:?} {path}: {detail}");
    // otter never repeats a lost removal that would remove a later snapshot, no matter who created
    // the snapshot.
    if race == Race::ForeignSnapshotAppears {
        assert!(detail.contains("would remove newer snapshots"), "{path}: {detail}");
    } else {
        assert!(detail.contains("the call is not repeated"), "{race:?} {path}: {detail}");
        assert!(detail.contains(race.in_the_way()), "{race:?} {path}: {detail}");
    }
    let left = lab.control().look(|world| world.machine(MACHINE).unwrap().snapshots.len());
    assert!(left >= 2, "{race:?} {path}");
}

async fn check_race(guarded: &Guarded, race: Race, path: &str) {
    let lab = &guarded.lab;
    let mut runner = Caller { lab, guarded: Some(guarded), role: "runner", lease: None };
    lab.control().mutate(|world| {
        let machine = world.machine_mut(MACHINE).unwrap();
        machine.snapshots.clear();
        machine.current_snapshot = None;
    });
    runner.shows(&[]).await;
    runner.take().await;
    let stepping = async |path: &str, body: Value| {
        let create = runner.request(Method::POST, path).json(&body);
        let job = Answer::from_request(create).await.expect(202).json;
        let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
        eventually("the job to end", async || {
            lab.control().step_tasks();
            !runner.get(&path).await["finished_at"].is_null()
        })
        .await;
        runner.get(&path).await["result"]["snapshot"].as_str().unwrap().to_owned()
    };
    let own = stepping(&on("/snapshots"), json!({"name": "own"})).await;
    stepping(&on("/snapshots"), json!({"name": "own below"})).await;
    // The removal waits behind a job that the host does not end yet, and is accepted.
    let power = runner.request(Method::POST, &on("/power")).json(&json!({"action": "on"}));
    Answer::from_request(power).await.expect(202);
    let task = lab.wait_for_machine_task(MACHINE).await;
    let removal =
        Answer::from_request(runner.request(Method::DELETE, &on(path))).await.expect(202).json;
    assert_eq!(removal["state"], "queued", "{removal}");
    race.apply(lab.control(), &own);
    if race == Race::MachineJoinsPool {
        let pooled = async || runner.get(&on("")).await["pools"] == json!(["late"]);
        eventually("the pool to be shown", pooled).await;
    }
    lab.control().finish_task(&task);
    let wait = format!("/v1/jobs/{}/wait?wait=14s", removal["id"].as_str().unwrap());
    let refused =
        Answer::from_request(runner.request(Method::GET, &wait)).await.problem(403, "forbidden");
    let detail = refused.str("detail");
    assert!(detail.contains(race.in_the_way()), "{race:?} {path}: {detail}");
    assert_eq!(refused.json["job"], removal["id"]);
    for (_, call) in REMOVALS {
        assert_eq!(lab.control().calls(call), 0, "{race:?} {path}");
    }
}
