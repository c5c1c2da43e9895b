//! Provokes every pair of an operation and a problem code that it lists in `x-otter-problems`.
//!
//! The pairs are those of the served document. [`RECIPES`] has a recipe for each code, if necessary
//! for specific operations. The test fails if a pair has no recipe. The response must be a problem
//! with the code and the status of `api::problem`. Each recipe has its own lab for all its pairs,
//! and all run at the same time.
//!
//! ```text
//! /openapi.json ──► pairs ──► recipe of each ──► its lab ──► responses ──► as expected? ──► count
//! ```

mod artifacts;
mod away;
pub mod call;
mod files;
mod gone;
mod leases;
mod limits;
mod refusals;
mod request;
mod screen_input;
mod screens;
mod serial;

use futures_util::future::{LocalBoxFuture, join_all};
use otter::api::problem;
use otter::app::Settings;
use otter::domain::failure::FailureKind;
use otter::simulator::world::{
    CdDrive, Choice, Datastore, FileContent, PowerState, Question, SerialBacking, SerialPort,
};
use otter::simulator::{Pace, Scenario};

use self::call::{Call, Operation};
use crate::harness::{Answer, Lab, LabOptions, eventually};

/// A problem code of an operation.
#[derive(Clone, Debug)]
struct Pair {
    operation: Operation,
    code: String,
}

/// The result of a pair: `Ok` if the code was provoked, otherwise the difference.
type Verdict = Result<(), String>;

/// Provokes pairs in a lab.
type Provoke = fn(Vec<Pair>) -> LocalBoxFuture<'static, Vec<Verdict>>;

/// A way to provoke some codes.
struct Recipe {
    codes: &'static [&'static str],
    /// The operations of the recipe. Empty: all operations that list the code.
    operations: &'static [&'static str],
    provoke: Provoke,
}

/// The recipes. The first one that matches a pair applies.
const RECIPES: &[Recipe] = &[
    for_all(&["unauthenticated"], |pairs| Box::pin(leases::without_a_token(pairs))),
    for_all(&["too-many-requests"], |pairs| Box::pin(leases::over_a_limit(pairs))),
    for_operations(&["wait-timeout"], &["end_lease"], |pairs| Box::pin(leases::by_a_lease(pairs))),
    for_operations(
        &[
            "artifact-exists",
            "insufficient-resources",
            "lease-ended",
            "lease-not-active",
            "length-required",
            "machine-leased",
            "offset-out-of-range",
            "payload-too-large",
            "request-timeout",
            "shutting-down",
            "storage-unavailable",
        ],
        &["put_artifact", "get_artifact_content", "delete_artifact"],
        |pairs| Box::pin(artifacts::of_files(pairs)),
    ),
    for_operations(
        &[
            "idempotency-mismatch",
            "invalid-power-state",
            "wait-timeout",
            "too-many-waits",
            "too-many-consoles",
            "console-unavailable",
            "not-supported",
            "host-unreachable",
            "host-login-refused",
            "queue-full",
            "machine-gone",
            "shutting-down",
            "storage-unavailable",
            "input-interrupted",
        ],
        &["send_screen_input"],
        |pairs| Box::pin(screen_input::of_input(pairs)),
    ),
    for_operations(
        &[
            "file-exists",
            "file-in-use",
            "host-protocol",
            "job-cancelled",
            "length-required",
            "shutting-down",
            "too-many-waits",
        ],
        &["put_file"],
        |pairs| Box::pin(files::of_files(pairs)),
    ),
    for_operations(
        &["file-exists", "file-in-use", "folder-not-empty", "machine-leased"],
        &["delete_file", "create_folder"],
        |pairs| Box::pin(files::of_files(pairs)),
    ),
    for_operations(
        &[
            "file-in-use",
            "forbidden-by-host",
            "host-protocol",
            "host-rejected",
            "offset-out-of-range",
            "queue-full",
        ],
        &["list_files", "get_file", "refresh_datastore"],
        |pairs| Box::pin(files::of_files(pairs)),
    ),
    for_operations(
        &["machine-leased", "too-many-consoles", "not-supported"],
        &["wait_for_machine"],
        |pairs| Box::pin(screens::of_looks(pairs)),
    ),
    for_operations(
        &["machine-leased"],
        &[
            "get_screen",
            "get_screen_picture",
            "get_snapshot_picture",
            "get_screen_text",
            "get_serial_ports",
            "read_serial_log",
            "wait_for_serial",
        ],
        |pairs| Box::pin(screens::of_looks(pairs)),
    ),
    for_operations(
        &[
            "console-unavailable",
            "idempotency-mismatch",
            "input-interrupted",
            "invalid-power-state",
            "machine-gone",
            "offset-out-of-range",
            "queue-full",
            "serial-busy",
            "shutting-down",
            "storage-unavailable",
            "too-many-consoles",
            "too-many-waits",
            "wait-timeout",
        ],
        &["read_serial_log", "wait_for_serial", "send_serial_input"],
        |pairs| Box::pin(serial::of_ports(pairs)),
    ),
    for_operations(
        &["offset-out-of-range", "serial-busy", "too-many-consoles"],
        &["open_serial_stream"],
        |pairs| Box::pin(serial::of_ports(pairs)),
    ),
    for_operations(&["serial-busy"], &["create_console_token"], |pairs| {
        Box::pin(serial::of_ports(pairs))
    }),
    for_operations(
        &[
            "invalid-power-state",
            "machine-gone",
            "console-unavailable",
            "too-many-consoles",
            "too-many-waits",
            "host-unreachable",
            "host-login-refused",
            "forbidden-by-host",
            "host-protocol",
            "not-supported",
            "shutting-down",
            "wait-timeout",
        ],
        &["get_screen_picture", "get_snapshot_picture", "get_screen_text", "wait_for_screen"],
        |pairs| Box::pin(screens::of_looks(pairs)),
    ),
    for_all(&["machine-leased", "lease-ended", "lease-not-active", "lease-failed"], |pairs| {
        Box::pin(leases::by_a_lease(pairs))
    }),
    for_operations(&["outcome-unknown"], &["create_lease"], |pairs| {
        Box::pin(leases::without_an_answer_of_the_store(pairs))
    }),
    for_operations(&["wait-timeout"], &["wait_for_lease"], |pairs| {
        Box::pin(leases::in_the_queue(pairs))
    }),
    for_all(&["no-free-machine"], |pairs| Box::pin(leases::in_the_queue(pairs))),
    for_operations(&["not-supported"], &["create_lease"], |pairs| {
        Box::pin(leases::without_text_recognition(pairs))
    }),
    for_operations(&["queue-full"], &["create_lease"], |pairs| Box::pin(leases::no_queue(pairs))),
    for_operations(&["too-many-waits"], &["wait_for_lease", "end_lease"], |pairs| {
        Box::pin(leases::no_waits(pairs))
    }),
    for_operations(
        &["not-found", "ambiguous-name", "idempotency-mismatch"],
        &["create_lease", "get_lease", "wait_for_lease", "renew_lease", "end_lease"],
        |pairs| Box::pin(leases::plain(pairs)),
    ),
    for_operations(
        &["shutting-down"],
        &[
            "create_lease",
            "wait_for_lease",
            "renew_lease",
            "end_lease",
            "quarantine_machine",
            "clear_quarantine",
            "clear_pool_quarantine",
            "open_screen_viewer",
            "open_serial_stream",
            "create_console_token",
        ],
        |pairs| Box::pin(leases::after_the_stop(pairs)),
    ),
    for_operations(
        &["too-many-consoles"],
        &["open_screen_viewer", "create_console_token"],
        |pairs| Box::pin(screens::without_room(pairs)),
    ),
    for_all(&["console-busy"], |pairs| Box::pin(screens::while_another_drives(pairs))),
    for_all(&["upgrade-required"], |pairs| Box::pin(request::plain(pairs))),
    for_operations(&["machine-gone", "shutting-down"], &["wait_for_machine"], |pairs| {
        Box::pin(gone::while_waited_for(pairs))
    }),
    for_operations(&["too-many-waits"], &["get_machine_properties"], |pairs| {
        Box::pin(limits::direct_reads(pairs))
    }),
    for_operations(
        &["forbidden-by-host", "host-protocol", "host-rejected", "host-unreachable"],
        &["get_machine_properties"],
        |pairs| Box::pin(refusals::of_reads(pairs)),
    ),
    for_operations(
        &["not-supported"],
        &[
            "list_files",
            "get_file",
            "refresh_datastore",
            "get_machine_properties",
            "open_screen_viewer",
            "create_console_token",
            "get_serial_ports",
            "read_serial_log",
            "wait_for_serial",
            "send_serial_input",
            "open_serial_stream",
        ],
        |pairs| Box::pin(refusals::of_the_backend(pairs)),
    ),
    for_operations(&["host-unreachable"], &["wait_for_job"], |pairs| {
        Box::pin(gone::with_the_host(pairs))
    }),
    for_operations(&["invalid-power-state", "wait-timeout"], &["wait_for_machine"], |pairs| {
        Box::pin(request::plain(pairs))
    }),
    for_all(
        &[
            "ambiguous-name",
            "forbidden",
            "headers-too-large",
            "idempotency-mismatch",
            "invalid-cursor",
            "invalid-request",
            "not-found",
            "payload-too-large",
            "question-pending",
            "self-protection",
            "unknown-parameter",
            "unsupported-media-type",
            "uri-too-long",
        ],
        |pairs| Box::pin(request::plain(pairs)),
    ),
    for_all(&["internal"], |pairs| Box::pin(limits::panics(pairs))),
    for_all(&["queue-full"], |pairs| Box::pin(limits::no_queue(pairs))),
    for_all(&["request-timeout"], |pairs| Box::pin(limits::slow_bodies(pairs))),
    for_all(&["too-many-waits"], |pairs| Box::pin(limits::no_waits(pairs))),
    for_all(&["storage-unavailable"], |pairs| Box::pin(leases::without_storage(pairs))),
    for_all(&["inventory-loading"], |pairs| Box::pin(away::never_reached(pairs))),
    for_all(&["host-unreachable"], |pairs| Box::pin(away::for_long(pairs))),
    for_all(&["host-login-refused"], |pairs| Box::pin(away::refused(pairs))),
    for_all(
        &[
            "deadline-exceeded",
            "job-cancelled",
            "job-still-running",
            "shutting-down",
            "wait-timeout",
        ],
        |pairs| Box::pin(away::for_a_moment(pairs)),
    ),
    for_all(&["machine-gone"], |pairs| Box::pin(gone::unseen(pairs))),
    for_all(&["no-drive"], |pairs| Box::pin(request::without_a_drive(pairs))),
    for_all(&["job-failed"], |pairs| Box::pin(refusals::until_the_deadline(pairs))),
    for_all(
        &[
            "forbidden-by-host",
            "host-rejected",
            "insufficient-resources",
            "invalid-power-state",
            "license-restricted",
            "machine-busy",
            "not-supported",
            "outcome-unknown",
            "tools-unavailable",
        ],
        |pairs| Box::pin(refusals::of_jobs(pairs)),
    ),
];

const fn for_all(codes: &'static [&'static str], provoke: Provoke) -> Recipe {
    for_operations(codes, &[], provoke)
}

const fn for_operations(
    codes: &'static [&'static str],
    operations: &'static [&'static str],
    provoke: Provoke,
) -> Recipe {
    Recipe { codes, operations, provoke }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_of_operation_and_code_is_provoked() {
    let pairs = served().await;
    let mut by_recipe: Vec<Vec<Pair>> = RECIPES.iter().map(|_| Vec::new()).collect();
    let mut wrong: Vec<String> = Vec::new();
    for pair in &pairs {
        match RECIPES.iter().position(|recipe| recipe.is_for(pair)) {
            Some(at) => by_recipe[at].push(pair.clone()),
            None => wrong.push(format!("{}: no recipe", pair.name())),
        }
    }
    for (recipe, pairs) in RECIPES.iter().zip(&by_recipe) {
        let idle = recipe.codes.iter().filter(|code| !pairs.iter().any(|pair| pair.code == **code));
        wrong.extend(idle.map(|code| {
            format!("{code}: no operation lists it for the recipe of {:?}", recipe.codes)
        }));
    }
    let used = RECIPES.iter().zip(by_recipe).filter(|(_, pairs)| !pairs.is_empty());
    let verdicts = join_all(used.map(|(recipe, pairs)| (recipe.provoke)(pairs))).await.concat();
    let provoked = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
    wrong.extend(verdicts.into_iter().filter_map(Result::err));
    println!("{provoked} of {} pairs of operation and code provoked", pairs.len());
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(provoked, pairs.len());
}

/// The test notices a pair without a recipe and an unexpected response.
#[tokio::test]
async fn a_pair_that_is_not_provoked_is_reported() {
    let pairs = served().await;
    let (lab, mut pair) = (Lab::start().await, pairs[0].clone());
    let verdict = pair.judge(lab.get("/none").await).unwrap_err();
    assert!(verdict.starts_with(&pair.name()) && verdict.contains("404"), "{verdict}");
    for code in ["no-such-code", "tools-are-late"] {
        code.clone_into(&mut pair.code);
        assert!(!RECIPES.iter().any(|recipe| recipe.is_for(&pair)));
        assert!(pair.judge(lab.get("/none").await).unwrap_err().contains(code));
    }
}

/// All pairs of the served document.
async fn served() -> Vec<Pair> {
    let document = Lab::start().await.get("/openapi.json").await.expect(200).json;
    let operations = Operation::all(&document);
    let pairs = operations.into_iter().flat_map(|(operation, codes)| {
        codes.into_iter().map(move |code| Pair { operation: operation.clone(), code })
    });
    pairs.collect()
}

impl Recipe {
    fn is_for(&self, pair: &Pair) -> bool {
        let its_own =
            self.operations.is_empty() || self.operations.contains(&pair.operation.id.as_str());
        its_own && self.codes.contains(&pair.code.as_str())
    }
}

impl Pair {
    fn name(&self) -> String {
        format!("{} {}", self.operation.id, self.code)
    }

    fn is_of(&self, operation: &str) -> bool {
        self.operation.id == operation
    }

    /// A call of the operation on the machine with the name of the operation.
    fn call(&self) -> Call {
        self.operation.call(&self.operation.id)
    }

    /// Checks that the response is the expected problem.
    fn judge(&self, answer: Answer) -> Verdict {
        let kind = FailureKind::parse(&self.code)
            .ok_or_else(|| format!("{}: no such code", self.name()))?;
        let status = problem::status(kind).as_u16();
        if (answer.status, answer.json["code"].as_str()) != (status, Some(&self.code)) {
            return Err(format!(
                "{}: expected {status}, got {} {}",
                self.name(),
                answer.status,
                answer.text
            ));
        }
        answer.problem(status, &self.code);
        Ok(())
    }
}

/// Provokes pairs at the same time.
async fn side_by_side(pairs: Vec<Pair>, provoke: impl AsyncFn(&Pair) -> Answer) -> Vec<Verdict> {
    join_all(pairs.iter().map(async |pair| pair.judge(provoke(pair).await))).await
}

/// The outcome of a job that the operation starts, or for `wait_for_job`, of another job.
async fn outcome(lab: &Lab, pair: &Pair, parameter: &str) -> Answer {
    if pair.is_of("put_file") {
        return pair.call().send(lab).await;
    }
    if !pair.is_of("wait_for_job") {
        return pair.call().parameter("wait=12s").parameter(parameter).send(lab).await;
    }
    let job = Call::power(&pair.operation.id).parameter(parameter).send(lab).await.expect(202);
    pair.operation.call(job.str("id")).parameter("wait=12s").send(lab).await
}

/// Calls `provoke` with longer and longer deadlines until the code matches, because this computer
/// may be too slow for a short one.
async fn by_a_deadline(pair: &Pair, provoke: impl AsyncFn(&str) -> Answer) -> Answer {
    for deadline in ["deadline=1s", "deadline=3s"] {
        let answer = provoke(deadline).await;
        if answer.json["code"] == pair.code {
            return answer;
        }
    }
    provoke("deadline=9s").await
}

/// A lab with a machine for each operation, with the name of the operation, and some special
/// machines.
fn plan(pairs: &[Pair], settings: fn(&mut Settings)) -> LabOptions {
    LabOptions {
        scenario: scenario(pairs),
        pace: Pace::Auto { scale: 0.05 },
        settings,
        ..LabOptions::default()
    }
}

fn scenario(pairs: &[Pair]) -> Scenario {
    let mut names: Vec<&str> = pairs.iter().map(|pair| pair.operation.id.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.extend(["golden-image", "twin", "twin", "asking", "asked-later"]);
    // A machine with a question cannot be leased, and otter checks the authorization before the
    // question.
    let is_answered = !pairs
        .iter()
        .any(|pair| matches!(&*pair.code, "machine-leased" | "lease-ended" | "lease-not-active"));
    let mut scenario = Scenario::generated(names.len());
    for (machine, name) in scenario.machines.iter_mut().zip(names) {
        name.clone_into(&mut machine.name);
        if name == "clear_pool_quarantine" {
            // A pool of the same name.
            machine.annotation = format!("otter.pool: {name}");
        }
        // The operation can change the machine.
        machine.power = if name == "kill_machine" { PowerState::On } else { PowerState::Off };
        machine.consolidation_needed = true;
        let listens = SerialBacking::Uri {
            service: "tcp://:0".to_owned(),
            direction: "server".to_owned(),
            proxy: None,
        };
        machine.serial_ports = vec![SerialPort::new(9000, listens)];
        // The machine that gets an ISO has none, and the others have one to eject.
        let drive = CdDrive::at(0);
        machine.cd_drives = match name {
            _ if pairs.iter().any(|pair| pair.code == "no-drive") => Vec::new(),
            "insert_iso" => vec![drive],
            _ => vec![drive.with_iso("[isos] iso/boot.iso")],
        };
        machine.question =
            (name == "asking" || (name == "answer_machine" && is_answered)).then(question);
    }
    let twins = ["twin-1", "twin-2"].map(|id| Datastore {
        id: id.to_owned(),
        name: "twin".to_owned(),
        ..scenario.datastores[0].clone()
    });
    let isos = Datastore {
        id: "isos".to_owned(),
        name: "isos".to_owned(),
        ..scenario.datastores[0].clone()
    };
    scenario.datastores.extend(twins.into_iter().chain([isos]));
    let there = ["get_file", "delete_file"].map(|name| format!("[isos] iso/{name}.iso"));
    scenario.files.extend(there.map(|path| (path, FileContent::of(b"bytes"))));
    scenario
}

fn question() -> Question {
    let choice = Choice {
        key: "4".to_owned(),
        label: "button.uuid.copiedTheVM".to_owned(),
        summary: "I copied it".to_owned(),
        fails_with: None,
    };
    Question {
        id: "19".to_owned(),
        message_id: "msg.uuid.altered".to_owned(),
        text: "Moved or copied?".to_owned(),
        choices: vec![choice],
        default_choice: None,
    }
}

/// The id of a machine by its name.
fn id_of(lab: &Lab, name: &str) -> String {
    lab.control().look(|world| world.machine_named(name).unwrap().id.clone())
}

/// Waits until this number of calls is waiting.
async fn until_waiting(lab: &Lab, calls: usize) {
    let line = format!("otter_waits_open {calls}\n");
    eventually("the calls to wait", async || lab.get("/metrics").await.text.contains(&line)).await;
}
