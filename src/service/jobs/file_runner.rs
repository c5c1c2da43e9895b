//! Runs one job on a file until its end is committed. It performs each effect of the job's
//! [`FileMachine`], and gives the results and each interrupt back.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::JobsParts;
use super::busy_paths::{BusyPath, BusyPaths};
use super::commit::commit;
use super::file_machine::{FileCallResult, FileEffect, FileInput, FileMachine};
use super::runner::{GRACE, Incomplete, PROGRESS_EVERY, sleep_until};
use super::state_machine::Interrupt;
use super::status::JobStatus;
use super::table::{JobTable, PendingJob};
use crate::domain::event::Subject;
use crate::domain::file_job::FileTarget;
use crate::domain::job::{Job, JobKind, JobRequest};
use crate::fail_points::fail_point;
use crate::hypervisor::CallError;
use crate::service::host_failure::HostFailure;
use crate::storage::StorageError;

/// The resources of one run of a job on a file.
pub struct FileRunner<'a> {
    pub parts: &'a JobsParts,
    pub table: &'a JobTable,
    pub stop: &'a CancellationToken,
    pub target: FileTarget,
    pub paths: &'a BusyPaths,
    /// The right to work on the path, once the job has it.
    pub entered: Mutex<Option<BusyPath>>,
}

impl FileRunner<'_> {
    /// Runs a job to its end. Returns the job with its end, which is committed and not yet
    /// published.
    ///
    /// # Errors
    /// [`Incomplete`] if the run stopped before the end.
    pub async fn run(&self, pending: PendingJob) -> Result<Job, Incomplete> {
        let PendingJob { state_machine, status, mut interrupts, due, mut jumps } = pending;
        let job = state_machine.job().clone();
        if job.state.is_end() {
            // The job ended while it waited for its turn.
            commit(self.parts, &job).await.map_err(|error| incomplete(&error))?;
            return Ok(job);
        }
        let clock = &self.parts.clock;
        let (mut machine, mut effect) =
            FileMachine::new(job, self.parts.settings.settle, clock.now());
        let mut timer: BoxFuture<'_, ()> = Box::pin(sleep_until(clock, due));
        let mut alarms = [Interrupt::GraceOver, Interrupt::Deadline { question: false }].to_vec();
        let (progress, mut sent) = watch::channel(0_u64);
        let mut progress_published = Duration::ZERO;
        // Whether a request to cancel or a new deadline is not committed yet. Readers do not see
        // such a request, because a crash would lose it.
        let mut unsaved = false;
        loop {
            if effect == FileEffect::Finish {
                return Ok(machine.job().clone());
            }
            self.publish(&machine, &status, unsaved);
            // otter may not stop during a call, nor during the commit of its answer.
            let may_stop =
                !matches!(effect, FileEffect::Save | FileEffect::Call(_) | FileEffect::Record(_));
            let saves = effect == FileEffect::Save;
            let mut work = pin!(self.perform(machine.job().clone(), effect.clone(), &progress));
            let input = loop {
                let interrupt = tokio::select! {
                    biased;
                    performed = &mut work => match performed {
                        Ok(input) => break Some(input),
                        Err(error) => return Err(incomplete(&error)),
                    },
                    () = self.stop.cancelled(), if may_stop => return Err(Incomplete::Stopped),
                    Some(interrupt) = interrupts.recv() => interrupt,
                    by = jumps.next() => {
                        machine.shift_deadline(by, clock.now());
                        unsaved = saves || !self.try_to_save(machine.job()).await;
                        continue;
                    }
                    Ok(()) = sent.changed() => {
                        let bytes = *sent.borrow_and_update();
                        let elapsed = clock.elapsed();
                        if elapsed.saturating_sub(progress_published) >= PROGRESS_EVERY {
                            progress_published = elapsed;
                            self.publish_progress(machine.job(), bytes, &status);
                        }
                        continue;
                    }
                    () = &mut timer, if !alarms.is_empty() => {
                        timer = Box::pin(clock.sleep(GRACE));
                        alarms.pop().unwrap_or(Interrupt::GraceOver)
                    }
                };
                let instead = machine.interrupt(&interrupt, clock.now());
                if matches!(interrupt, Interrupt::Cancel(_)) {
                    unsaved = true;
                }
                if let Some(instead) = instead {
                    effect = instead;
                    break None;
                }
                // Of two commits at the same time, the older one could finish last. So nothing is
                // committed here while the effect commits the job.
                if unsaved && !saves {
                    unsaved = !self.try_to_save(machine.job()).await;
                }
                self.publish(&machine, &status, unsaved);
            };
            if unsaved && saves && input.is_some() {
                unsaved = !self.try_to_save(machine.job()).await;
            }
            match input {
                Some(input) => effect = machine.step(input, clock.now()),
                None if unsaved && effect != FileEffect::Save => {
                    unsaved = !self.try_to_save(machine.job()).await;
                }
                None => {}
            }
        }
    }

    async fn perform(
        &self,
        job: Job,
        effect: FileEffect,
        progress: &watch::Sender<u64>,
    ) -> Result<FileInput, StorageError> {
        let (files, target) = (&self.parts.files, &self.target);
        Ok(match effect {
            FileEffect::Enter => {
                let deletes = job.kind() == JobKind::FileDelete;
                let entered = self.paths.enter(target, deletes).await;
                *self.entered.lock().unwrap_or_else(PoisonError::into_inner) = Some(entered);
                FileInput::Done
            }
            FileEffect::Save => {
                let [before, after] = fail_points_of_save(&job);
                fail_point!(before);
                commit(self.parts, &job).await?;
                fail_point!(after);
                FileInput::Done
            }
            FileEffect::Look => {
                fail_point!("file-look");
                let seen = files.look(job.id, target).await;
                FileInput::Looked(seen.map_err(|error| HostFailure::from(&error)))
            }
            FileEffect::Receive(upload) => {
                fail_point!("file-receive");
                let received = files.receive(job.id, target, &upload, progress).await;
                fail_point!("file-received");
                FileInput::Received(received)
            }
            FileEffect::Call(call) => {
                fail_point!("file-call");
                let called = files.call(job.id, target, call).await;
                fail_point!("file-called");
                FileInput::Called(match called {
                    Ok(()) => FileCallResult::Done,
                    Err(CallError::Refused(error)) => {
                        FileCallResult::Refused(HostFailure::from(&error))
                    }
                    Err(CallError::Lost(error)) => {
                        let cause = &error as &dyn std::error::Error;
                        tracing::warn!(job = %job.id, error = cause, "the answer was lost");
                        FileCallResult::Lost(HostFailure::from(&error))
                    }
                })
            }
            FileEffect::AwaitHost(pause) => {
                self.parts.clock.sleep(pause).await;
                self.parts.inventory.connected().await;
                FileInput::Done
            }
            FileEffect::Pause(pause) => {
                self.parts.clock.sleep(pause).await;
                FileInput::Done
            }
            FileEffect::Discard => {
                files.discard(job.id, target).await;
                FileInput::Done
            }
            FileEffect::Record(received) => {
                fail_point!("file-record");
                files.uploaded(job.id, target, &received).await;
                FileInput::Done
            }
            // This is never reached, because the loop of `run` ends at this effect.
            FileEffect::Finish => FileInput::Done,
        })
    }

    /// Tries once to commit the job. Returns whether the commit succeeded. If it failed, the next
    /// commit stores the same change.
    async fn try_to_save(&self, job: &Job) -> bool {
        self.parts.store.update_job(job).await.is_ok()
    }

    fn publish(&self, machine: &FileMachine, status: &watch::Sender<JobStatus>, hide_cancel: bool) {
        let update = |status: &mut JobStatus| status.update_file(machine, hide_cancel);
        if self.table.update_status(status, update) {
            self.publish_change(status);
        }
    }

    fn publish_progress(&self, job: &Job, bytes: u64, status: &watch::Sender<JobStatus>) {
        let JobRequest::UploadFile(upload) = job.request else { return };
        let percent = (bytes.saturating_mul(100)).checked_div(upload.bytes).unwrap_or(100);
        let percent = u8::try_from(percent.min(100)).unwrap_or(100);
        status.send_modify(|status| status.progress = Some(percent));
        self.publish_change(status);
    }

    fn publish_change(&self, status: &watch::Sender<JobStatus>) {
        let changed = Subject::from_job(&status.borrow().job);
        self.parts.event_stream.publish([changed]);
    }
}

fn incomplete(error: &StorageError) -> Incomplete {
    match error {
        StorageError::Closed => Incomplete::Stopped,
        _ => Incomplete::Unsaved,
    }
}

/// The names of the fail points before and after a commit of the job. The progress of the job
/// selects them.
fn fail_points_of_save(job: &Job) -> [&'static str; 2] {
    match &job.file_intent {
        _ if job.state.is_end() => ["file-end", "file-end-committed"],
        Some(_) => ["file-intent", "file-intent-committed"],
        None => ["file-transfer", "file-transfer-committed"],
    }
}
