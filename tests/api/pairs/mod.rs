//! Every pair of an operation and a code that it lists in `x-otter-problems` is provoked.
//!
//! The pairs are those of the served document. [`RECIPES`] says for each code, and where it must
//! for the operation, how it is brought about; a pair without a recipe fails the test by its name.
//! What comes back must be a problem of that code, with the status that `api::problem` gives it.
//! Each recipe has a lab of its own for all its pairs, and all run side by side.
//!
//! ```text
//! /openapi.json ──► pairs ──► recipe of each ──► its lab ──► answers ──► as wanted? ──► the count
//! ```

mod away;
pub mod call;
mod gone;
mod leases;
mod limits;
mod refusals;
mod request;

use futures_util::future::{LocalBoxFuture, join_all};
use otter::api::problem;
use otter::app::Settings;
use otter::domain::failure::FailureKind;
use otter::simulator::world::{Choice, PowerState, Question};
use otter::simulator::{Pace, Scenario};

use self::call::{Call, Operation};
use crate::harness::{Answer, Lab, LabOptions, eventually};

/// One code of one operation.
#[derive(Clone, Debug)]
struct Pair {
    operation: Operation,
    code: String,
}

/// What came of a pair: nothing to say where it was provoked.
type Verdict = Result<(), String>;

/// Provokes pairs in a lab of their own.
type Provoke = fn(Vec<Pair>) -> LocalBoxFuture<'static, Vec<Verdict>>;

/// How some codes are provoked.
struct Recipe {
    codes: &'static [&'static str],
    /// The operations that it is for; none: whichever list the code.
    operations: &'static [&'static str],
    provoke: Provoke,
}

/// The first that fits a pair is its recipe.
const RECIPES: &[Recipe] = &[
    any(&["unauthenticated"], |pairs| Box::pin(leases::without_a_token(pairs))),
    any(&["too-many-requests"], |pairs| Box::pin(leases::over_a_limit(pairs))),
    of(&["wait-timeout"], &["end_lease"], |pairs| Box::pin(leases::by_a_lease(pairs))),
    any(&["machine-leased", "lease-ended", "lease-failed"], |pairs| {
        Box::pin(leases::by_a_lease(pairs))
    }),
    of(&["wait-timeout"], &["wait_for_lease"], |pairs| Box::pin(leases::in_the_queue(pairs))),
    any(&["no-free-machine"], |pairs| Box::pin(leases::in_the_queue(pairs))),
    of(&["queue-full"], &["create_lease"], |pairs| Box::pin(leases::no_queue(pairs))),
    of(&["too-many-waits"], &["wait_for_lease", "end_lease"], |pairs| {
        Box::pin(leases::no_waits(pairs))
    }),
    of(
        &["not-found", "ambiguous-name", "idempotency-mismatch"],
        &["create_lease", "get_lease", "wait_for_lease", "renew_lease", "end_lease"],
        |pairs| Box::pin(leases::plain(pairs)),
    ),
    of(
        &["shutting-down"],
        &[
            "create_lease",
            "wait_for_lease",
            "renew_lease",
            "end_lease",
            "quarantine_machine",
            "clear_quarantine",
        ],
        |pairs| Box::pin(leases::after_the_stop(pairs)),
    ),
    of(&["machine-gone", "shutting-down"], &["wait_for_machine"], |pairs| {
        Box::pin(gone::while_waited_for(pairs))
    }),
    of(&["too-many-waits"], &["get_machine_properties"], |pairs| {
        Box::pin(limits::direct_reads(pairs))
    }),
    of(
        &["forbidden-by-host", "host-protocol", "host-rejected", "host-unreachable"],
        &["get_machine_properties"],
        |pairs| Box::pin(refusals::of_a_read(pairs)),
    ),
    of(&["not-supported"], &["get_machine_properties"], |pairs| {
        Box::pin(refusals::of_a_backend(pairs))
    }),
    of(&["host-unreachable"], &["wait_for_job"], |pairs| Box::pin(gone::with_the_host(pairs))),
    of(&["invalid-power-state", "wait-timeout"], &["wait_for_machine"], |pairs| {
        Box::pin(request::plain(pairs))
    }),
    any(
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
    any(&["internal"], |pairs| Box::pin(limits::panics(pairs))),
    any(&["queue-full"], |pairs| Box::pin(limits::no_queue(pairs))),
    any(&["request-timeout"], |pairs| Box::pin(limits::slow_bodies(pairs))),
    any(&["too-many-waits"], |pairs| Box::pin(limits::no_waits(pairs))),
    any(&["storage-unavailable"], |pairs| Box::pin(leases::without_storage(pairs))),
    any(&["inventory-loading"], |pairs| Box::pin(away::never_reached(pairs))),
    any(&["host-unreachable"], |pairs| Box::pin(away::for_long(pairs))),
    any(&["host-login-refused"], |pairs| Box::pin(away::refused(pairs))),
    any(
        &[
            "deadline-exceeded",
            "job-cancelled",
            "job-still-running",
            "shutting-down",
            "wait-timeout",
        ],
        |pairs| Box::pin(away::for_a_moment(pairs)),
    ),
    any(&["machine-gone"], |pairs| Box::pin(gone::unseen(pairs))),
    any(
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
        |pairs| Box::pin(refusals::of_a_job(pairs)),
    ),
];

const fn any(codes: &'static [&'static str], provoke: Provoke) -> Recipe {
    of(codes, &[], provoke)
}

const fn of(
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
            None => wrong.push(format!("{}: there is no recipe", pair.name())),
        }
    }
    for (recipe, pairs) in RECIPES.iter().zip(&by_recipe) {
        let idle = recipe.codes.iter().filter(|code| !pairs.iter().any(|pair| pair.code == **code));
        wrong.extend(idle.map(|code| {
            format!("{code}: no operation lists it for the recipe of {:?}", recipe.codes)
        }));
    }
    let wanted = RECIPES.iter().zip(by_recipe).filter(|(_, pairs)| !pairs.is_empty());
    let verdicts = join_all(wanted.map(|(recipe, pairs)| (recipe.provoke)(pairs))).await.concat();
    let provoked = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
    wrong.extend(verdicts.into_iter().filter_map(Result::err));
    println!("{provoked} of {} pairs of operation and code provoked", pairs.len());
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(provoked, pairs.len());
}

/// The test would notice: what has no recipe, and what comes back otherwise than it should.
#[tokio::test]
async fn a_pair_that_is_not_provoked_is_told_by_name() {
    let pairs = served().await;
    let (lab, mut pair) = (Lab::start().await, pairs[0].clone());
    let told = pair.judge(lab.get("/none").await).unwrap_err();
    assert!(told.starts_with(&pair.name()) && told.contains("404"), "{told}");
    for code in ["no-such-code", "tools-are-late"] {
        code.clone_into(&mut pair.code);
        assert!(!RECIPES.iter().any(|recipe| recipe.is_for(&pair)));
        assert!(pair.judge(lab.get("/none").await).unwrap_err().contains(code));
    }
}

/// Every pair of the document as it is served.
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

    /// The operation upon the machine that has its name.
    fn call(&self) -> Call {
        self.operation.call(&self.operation.id)
    }

    /// Whether this is the problem that was to be provoked.
    fn judge(&self, answer: Answer) -> Verdict {
        let kind = FailureKind::parse(&self.code)
            .ok_or_else(|| format!("{}: no such code", self.name()))?;
        let status = problem::status(kind).as_u16();
        if (answer.status, answer.json["code"].as_str()) != (status, Some(&self.code)) {
            return Err(format!(
                "{}: {status} was wanted, not {} {}",
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

/// The outcome of a job of the pair's own operation; of one of its own where it only waits.
async fn outcome(lab: &Lab, pair: &Pair, parameter: &str) -> Answer {
    if !pair.is_of("wait_for_job") {
        return pair.call().asking("wait=12s").asking(parameter).send(lab).await;
    }
    let job = Call::power(&pair.operation.id).asking(parameter).send(lab).await.expect(202);
    pair.operation.call(job.str("id")).asking("wait=12s").send(lab).await
}

/// Something must happen to a job before its deadline: a longer one is given where this computer
/// was too slow for that.
async fn by_a_deadline(pair: &Pair, provoke: impl AsyncFn(&str) -> Answer) -> Answer {
    for deadline in ["deadline=1s", "deadline=3s"] {
        let answer = provoke(deadline).await;
        if answer.json["code"] == pair.code {
            return answer;
        }
    }
    provoke("deadline=9s").await
}

/// A lab with a machine for each operation, of its name, and some of other qualities.
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
    // No lease gets a machine that waits on a question, and otter checks the right to the machine
    // before the question.
    let is_answered =
        !pairs.iter().any(|pair| matches!(&*pair.code, "machine-leased" | "lease-ended"));
    let mut scenario = Scenario::generated(names.len());
    for (machine, name) in scenario.machines.iter_mut().zip(names) {
        name.clone_into(&mut machine.name);
        // Each can be changed by its operation.
        machine.power = if name == "kill_machine" { PowerState::On } else { PowerState::Off };
        machine.question =
            (name == "asking" || (name == "answer_machine" && is_answered)).then(question);
    }
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

/// The id of a machine by its name, as the host knows it.
fn id_of(lab: &Lab, name: &str) -> String {
    lab.control().look(|world| world.machine_named(name).unwrap().id.clone())
}

/// Waits until this many calls block.
async fn until_blocked(lab: &Lab, calls: usize) {
    let line = format!("otter_waits_open {calls}\n");
    eventually("the calls to block", async || lab.get("/metrics").await.text.contains(&line)).await;
}
