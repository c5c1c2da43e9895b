//! Reads the evidence of machines for many callers with few calls. While one read is under way,
//! further callers wait. When it ends, the first of the waiting callers reads for all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::connections::Lane;
use super::ended_tasks::EndedTasks;
use super::evidence::{read_evidence, read_evidence_of_many};
use super::session::Session;
use crate::domain::call::Evidence;
use crate::domain::ids::MachineId;
use crate::hypervisor::HostError;

/// The maximum number of machines that one call reads.
const MACHINES_PER_READ: usize = 64;

/// Reads the evidence of machines. At most one read for several callers is under way at a time.
#[derive(Debug)]
pub struct EvidenceReader {
    session: Arc<Session>,
    ended_tasks: Arc<EndedTasks>,
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue(Mutex<Callers>);

#[derive(Debug, Default)]
struct Callers {
    /// Whether a caller holds the [`Lead`], which is the right to read for others.
    is_led: bool,
    waiting: Vec<Caller>,
}

#[derive(Debug)]
struct Caller {
    machine: MachineId,
    turn: oneshot::Sender<Turn>,
}

/// What a waiting caller gets. A caller whose channel closes without a value reads its machine
/// alone.
#[derive(Debug)]
enum Turn {
    /// The right to read: the caller reads for itself and for the callers that the [`Lead`] lists.
    Lead(Lead),
    Read(Box<Evidence>),
}

/// The right to read for other callers. Dropping this value passes the right to the next waiting
/// caller.
#[derive(Debug)]
struct Lead {
    queue: Arc<Queue>,
    others: Vec<Caller>,
}

impl EvidenceReader {
    pub fn new(session: Arc<Session>, ended_tasks: Arc<EndedTasks>) -> Self {
        Self { session, ended_tasks, queue: Arc::default() }
    }

    /// Reads the evidence of a machine. The same calls may read the machines of other callers.
    ///
    /// # Errors
    /// The errors of [`read_evidence`].
    pub async fn read(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        let mut lead = match self.queue.enter(machine) {
            Ok(lead) => lead,
            Err(turn) => match turn.await {
                Ok(Turn::Lead(lead)) => lead,
                Ok(Turn::Read(evidence)) => return Ok(*evidence),
                Err(_) => return self.read_alone(machine, Lane::Ordinary).await,
            },
        };
        if lead.others.is_empty() {
            return self.read_alone(machine, Lane::Ordinary).await;
        }
        let mut machines: Vec<MachineId> =
            lead.others.iter().map(|other| other.machine.clone()).collect();
        machines.push(machine.clone());
        machines.sort();
        machines.dedup();
        let read = read_evidence_of_many(
            &self.session,
            &self.ended_tasks,
            &machines,
            // This read serves many callers. In the ordinary lane it would wait behind the calls
            // that these callers make.
            Lane::Reserved,
        )
        .await;
        // If the read fails, each caller reads its own machine alone, so that one machine cannot
        // make the reads of all other machines fail.
        let found: HashMap<MachineId, Evidence> = read.unwrap_or_default();
        for other in lead.others.drain(..) {
            if let Some(evidence) = found.get(&other.machine) {
                // `send` fails if the caller has stopped waiting, which is no error.
                let _ = other.turn.send(Turn::Read(Box::new(evidence.clone())));
            }
        }
        drop(lead);
        match found.get(machine) {
            Some(evidence) => Ok(evidence.clone()),
            None => self.read_alone(machine, Lane::Ordinary).await,
        }
    }

    /// Reads the evidence of one machine at once, without waiting for other callers.
    ///
    /// # Errors
    /// The errors of [`read_evidence`].
    pub async fn read_alone(&self, machine: &MachineId, lane: Lane) -> Result<Evidence, HostError> {
        read_evidence(&self.session, &self.ended_tasks, machine, lane).await
    }
}

impl Queue {
    /// Returns the right to read if no caller holds it. Otherwise returns a channel on which the
    /// caller waits for its turn.
    fn enter(self: &Arc<Self>, machine: &MachineId) -> Result<Lead, oneshot::Receiver<Turn>> {
        let mut callers = self.callers();
        if !callers.is_led {
            callers.is_led = true;
            return Ok(Lead { queue: Arc::clone(self), others: Vec::new() });
        }
        let (turn, received) = oneshot::channel();
        callers.waiting.push(Caller { machine: machine.clone(), turn });
        Err(received)
    }

    fn callers(&self) -> MutexGuard<'_, Callers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut callers = self.queue.callers();
        callers.waiting.retain(|caller| !caller.turn.is_closed());
        if callers.waiting.is_empty() {
            callers.is_led = false;
            return;
        }
        let next = callers.waiting.remove(0);
        let number = callers.waiting.len().min(MACHINES_PER_READ - 1);
        let others = callers.waiting.drain(..number).collect();
        drop(callers);
        // If the next caller no longer waits, `send` fails and drops the `Lead`, which passes it to
        // the caller after that one.
        let _ = next.turn.send(Turn::Lead(Self { queue: Arc::clone(&self.queue), others }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str) -> MachineId {
        MachineId::from_backend(id)
    }

    #[test]
    fn the_lead_passes_to_a_caller_that_still_waits() {
        let queue: Arc<Queue> = Arc::default();
        let first = queue.enter(&machine("1")).unwrap();
        let gone = queue.enter(&machine("2")).unwrap_err();
        let mut second = queue.enter(&machine("3")).unwrap_err();
        let mut third = queue.enter(&machine("4")).unwrap_err();
        drop(gone);
        drop(first);
        let Ok(Turn::Lead(lead)) = second.try_recv() else { panic!("the second caller leads") };
        assert_eq!(lead.others.len(), 1);
        // The caller that leads is dropped before it has read anything. The channels of the callers
        // for which it should have read close, and the next caller leads.
        drop(second);
        drop(lead);
        assert!(third.try_recv().is_err());
        assert!(queue.enter(&machine("5")).is_ok());
    }

    #[test]
    fn a_lead_that_was_sent_to_a_caller_that_goes_is_not_lost() {
        let queue: Arc<Queue> = Arc::default();
        let first = queue.enter(&machine("1")).unwrap();
        let second = queue.enter(&machine("2")).unwrap_err();
        drop(first);
        drop(second);
        assert!(queue.enter(&machine("3")).is_ok());
    }
}
