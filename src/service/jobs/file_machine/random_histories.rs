//! Random histories of jobs on files: answers and calls are lost, the host refuses and is away,
//! callers cancel, and otter dies at any effect. The rules of the jobs hold in each of them.

use proptest::prelude::*;

use super::*;
use crate::domain::file_job::{FileFact, UploadRequest};
use crate::domain::origin::Actor;
use crate::hypervisor::HostErrorKind;
use crate::service::jobs::lost_call::MAX_SENDS;
use crate::service::jobs::samples::{file_job, start};

/// The length of the body of an upload.
const SENT: u64 = 5;
/// More effects than any history needs.
const MAX_EFFECTS: usize = 1_000;

/// What is on the host. The versions of a file differ in what they contain, also if they have the
/// same length.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    Before(u64),
    Part(u64),
}

/// A host with one path, and what happens to the job.
struct History {
    job: Job,
    /// The job as the last commit stored it.
    stored: Job,
    initial: Option<Entry>,
    target: Option<Entry>,
    part: Option<Entry>,
    /// Whether the body of the upload still arrives. It is gone after a crash.
    has_body: bool,
    /// How often a call may have run.
    sends: u32,
    decisions: std::vec::IntoIter<u8>,
}

fn fact(entry: Option<&Entry>) -> Option<FileFact> {
    let bytes = match entry? {
        Entry::Folder => 0,
        Entry::Before(bytes) | Entry::Part(bytes) => *bytes,
    };
    let is_folder = entry == Some(&Entry::Folder);
    Some(FileFact { bytes, modified_at: None, is_folder, is_empty: is_folder })
}

fn host_failure(kind: HostErrorKind) -> HostFailure {
    HostFailure {
        kind,
        message: "the host said so".to_owned(),
        fault: None,
        blocking_task: None,
        outcome_uncertain: false,
    }
}

impl History {
    fn new(request: JobRequest, initial: Option<Entry>, decisions: Vec<u8>) -> Self {
        let job = file_job(request);
        Self {
            stored: job.clone(),
            job,
            target: initial.clone(),
            initial,
            part: None,
            has_body: true,
            sends: 0,
            decisions: decisions.into_iter(),
        }
    }

    /// The next decision. Without more decisions nothing goes wrong.
    fn decide(&mut self) -> u8 {
        self.decisions.next().unwrap_or(0)
    }

    /// Runs the job to its end. Returns the job.
    fn run(&mut self) -> Job {
        let settle = Duration::from_secs(30);
        let (mut machine, mut effect) = FileMachine::new(self.job.clone(), settle, start());
        for _ in 0..MAX_EFFECTS {
            assert!(self.target.is_none() || self.target != Some(Entry::Part(2)), "incomplete");
            if effect == FileEffect::Finish {
                return machine.job().clone();
            }
            let decision = self.decide();
            if decision % 16 == 15
                && let Some(instead) =
                    machine.interrupt(&Interrupt::Cancel(Actor::otter()), start())
            {
                effect = instead;
                continue;
            }
            let Some(answer) = self.perform(&effect, machine.job(), decision) else {
                // otter dies. The next start reads the job from disk.
                self.has_body = false;
                if self.stored.state.is_end() {
                    return self.stored.clone();
                }
                (machine, effect) = FileMachine::new(self.stored.clone(), settle, start());
                continue;
            };
            effect = machine.step(answer, start());
        }
        panic!("the job does not end");
    }

    /// Performs an effect. `None` if otter dies within it.
    fn perform(&mut self, effect: &FileEffect, job: &Job, decision: u8) -> Option<FileInput> {
        match effect {
            FileEffect::Save => {
                if decision % 8 == 7 {
                    return None;
                }
                self.stored = job.clone();
                (decision % 8 != 6).then_some(FileInput::Done)
            }
            FileEffect::Receive(_) => self.receive(decision),
            FileEffect::Call(call) => self.call(*call, decision),
            FileEffect::Look if decision % 4 == 3 => {
                Some(FileInput::Looked(Err(host_failure(HostErrorKind::Unreachable))))
            }
            FileEffect::Look => {
                let (target, part) = (fact(self.target.as_ref()), fact(self.part.as_ref()));
                Some(FileInput::Looked(Ok(FileEvidence { target, part })))
            }
            FileEffect::Discard => {
                self.part = None;
                (decision % 8 != 7).then_some(FileInput::Done)
            }
            _ => (decision % 8 != 7).then_some(FileInput::Done),
        }
    }

    fn receive(&mut self, decision: u8) -> Option<FileInput> {
        if !self.has_body {
            let failure = Failure::new(FailureKind::RequestTimeout, "no body");
            return Some(FileInput::Received(Err(failure)));
        }
        match decision % 4 {
            3 => {
                self.part = Some(Entry::Part(2));
                None
            }
            2 => {
                let failure = Failure::new(FailureKind::RequestTimeout, "hung up");
                Some(FileInput::Received(Err(failure)))
            }
            _ => {
                self.part = Some(Entry::Part(SENT));
                let sha256 = Sha256Sum([1; 32]);
                let received = Received { bytes: SENT, sha256, unchanged: false };
                Some(FileInput::Received(Ok(received)))
            }
        }
    }

    fn call(&mut self, call: FileCall, decision: u8) -> Option<FileInput> {
        let lost = || {
            let failure = host_failure(HostErrorKind::Unreachable);
            Some(FileInput::Called(FileCallResult::Lost(failure)))
        };
        let refused = |kind| Some(FileInput::Called(FileCallResult::Refused(host_failure(kind))));
        match decision % 8 {
            4 => return refused(HostErrorKind::Rejected),
            5 => return refused(HostErrorKind::Unreachable),
            _ => {}
        }
        self.sends += 1;
        match decision % 8 {
            2 => return lost(),
            3 => return None,
            _ => {}
        }
        if let Err(kind) = self.change(call) {
            self.sends -= 1;
            return refused(kind);
        }
        match decision % 8 {
            6 => lost(),
            7 => None,
            _ => Some(FileInput::Called(FileCallResult::Done)),
        }
    }

    fn change(&mut self, call: FileCall) -> Result<(), HostErrorKind> {
        match call {
            FileCall::MovePart { replace } => {
                if self.target.is_some() && !replace {
                    return Err(HostErrorKind::FileExists);
                }
                self.target = Some(self.part.take().ok_or(HostErrorKind::NotFound)?);
            }
            FileCall::Delete => {
                self.target.take().ok_or(HostErrorKind::NotFound)?;
            }
            FileCall::CreateFolder if self.target.is_some() => {
                return Err(HostErrorKind::FileExists);
            }
            FileCall::CreateFolder => self.target = Some(Entry::Folder),
        }
        Ok(())
    }
}

fn any_request() -> impl Strategy<Value = JobRequest> {
    prop_oneof![
        any::<bool>().prop_map(|replace| {
            JobRequest::UploadFile(UploadRequest { bytes: SENT, replace, sha256: None })
        }),
        Just(JobRequest::DeleteFile),
        Just(JobRequest::CreateFolder),
    ]
}

fn any_initial() -> impl Strategy<Value = Option<Entry>> {
    let file = prop_oneof![Just(Entry::Before(SENT)), Just(Entry::Before(9)), Just(Entry::Folder)];
    prop::option::of(file)
}

proptest! {
    /// Whatever happens, a job ends, and its end is true. A target is the file from before or all
    /// that was sent. No part file is left. No call is sent more often than allowed.
    #[test]
    fn a_job_on_a_file_keeps_its_rules(
        request in any_request(),
        initial in any_initial(),
        decisions in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let is_upload = matches!(request, JobRequest::UploadFile(_));
        let mut history = History::new(request.clone(), initial, decisions);
        let job = history.run();
        prop_assert!(job.state.is_end());
        prop_assert_eq!(&history.part, &None);
        prop_assert!(history.sends <= MAX_SENDS, "{} sends", history.sends);
        let done = match request {
            JobRequest::UploadFile(_) => Some(Entry::Part(SENT)),
            JobRequest::DeleteFile => None,
            _ => Some(Entry::Folder),
        };
        match job.state {
            JobState::Succeeded => prop_assert_eq!(&history.target, &done),
            JobState::Failed | JobState::Cancelled => {
                prop_assert_eq!(&history.target, &history.initial);
            }
            _ => {
                let is_either = history.target == history.initial || history.target == done;
                prop_assert!(is_either, "{:?}", history.target);
            }
        }
        prop_assert!(is_upload || !job.steps.iter().any(|step| step.name == StepName::Transfer));
    }
}
