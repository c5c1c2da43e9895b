//! A task of a machine in memory.

use std::sync::Arc;

use otter::domain::call::HostCall;
use otter::domain::ids::{MachineId, SnapshotId, TaskId};
use otter::hypervisor::{HostError, TaskStatus};

/// The steps of a task before its last.
pub const STEPS: [Option<u8>; 4] = [None, Some(25), Some(50), Some(75)];

/// A task of a machine.
#[derive(Clone, Debug)]
pub struct Task {
    pub id: TaskId,
    pub machine: MachineId,
    pub call: HostCall,
    pub user: &'static str,
    /// How many of [`STEPS`] it has taken.
    pub step: usize,
    /// Whether it waits for an answer.
    pub held: bool,
    pub end: Option<Result<Option<SnapshotId>, Arc<HostError>>>,
    /// False once the host has forgotten it, while its work goes on.
    pub known: bool,
}

impl Task {
    /// Where it is.
    pub fn status(&self) -> TaskStatus {
        match &self.end {
            None => TaskStatus::Running { progress: self.step.checked_sub(1).and_then(|step| STEPS[step]) },
            Some(Ok(snapshot)) => TaskStatus::Succeeded { snapshot: snapshot.clone() },
            Some(Err(error)) => TaskStatus::Failed(Arc::clone(error)),
        }
    }
}
