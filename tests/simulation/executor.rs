//! A deterministic executor: it runs tasks in one thread. The time stands still while a task is
//! ready, and then moves to the next timer. The seed chooses which ready task runs next, so it
//! chooses how tasks interleave.
//!
//! The order in which tasks are woken has no effect, because `watch` of tokio wakes its waiters in
//! a random order.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use otter::clock::Time;
use uuid::Uuid;

use super::random::Random;

/// The owner of a task. If the owner is killed, the task is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Everything except the daemon.
    Environment,
    /// The process of the daemon with this number.
    Daemon(u32),
}

/// The progress of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A task was polled.
    Task,
    /// The time moved to the next timer.
    Time,
    /// Every task waits for another task.
    Stuck,
}

/// Runs the spawned tasks in one thread. `random` chooses which ready task is polled next. The time
/// moves to the next timer once no task is ready.
pub struct Executor {
    handle: Handle,
    tasks: BTreeMap<u64, (Owner, BoxFuture<'static, ()>)>,
    random: Random,
}

/// A handle that spawns tasks and is the clock. Clones belong to the same executor.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Mutex<ExecutorState>>);

struct ExecutorState {
    elapsed: Duration,
    /// How far the wall clock is ahead of the elapsed time.
    skew: SignedDuration,
    spawned: Vec<(u64, Owner, BoxFuture<'static, ()>)>,
    ready: BTreeSet<u64>,
    sleepers: BTreeMap<(Duration, u64), Waker>,
    next: u64,
    bits: Random,
    /// The timestamp of the last UUID, in milliseconds.
    last_uuid: i64,
}

impl Executor {
    pub fn new(random: &mut Random) -> Self {
        let state = ExecutorState {
            elapsed: Duration::ZERO,
            skew: SignedDuration::ZERO,
            spawned: Vec::new(),
            ready: BTreeSet::new(),
            sleepers: BTreeMap::new(),
            next: 0,
            bits: Random::new(random.next()),
            last_uuid: 0,
        };
        let random = Random::new(random.next());
        Self { handle: Handle(Arc::new(Mutex::new(state))), tasks: BTreeMap::new(), random }
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Polls a ready task, or moves the time if no task is ready.
    pub fn step(&mut self) -> Progress {
        self.accept_spawned();
        let ready: Vec<u64> = self.handle.state().ready.iter().copied().collect();
        let Some(number) = self.random.pick(&ready).copied() else {
            return if self.handle.advance_to_next_timer() {
                Progress::Time
            } else {
                Progress::Stuck
            };
        };
        self.handle.state().ready.remove(&number);
        // A task that has ended may still be woken.
        if let Some((_, task)) = self.tasks.get_mut(&number) {
            let waker = Waker::from(Arc::new(TaskWaker { number, handle: self.handle.clone() }));
            if task.poll_unpin(&mut Context::from_waker(&waker)).is_ready() {
                self.tasks.remove(&number);
            }
        }
        Progress::Task
    }

    /// Drops every task of this owner.
    pub fn kill(&mut self, owner: Owner) {
        self.accept_spawned();
        while let Some((number, _)) = self.tasks.iter().find(|(_, (of, _))| *of == owner) {
            let number = *number;
            self.tasks.remove(&number);
            // The drop may have spawned another task.
            self.accept_spawned();
        }
    }

    fn accept_spawned(&mut self) {
        let spawned = std::mem::take(&mut self.handle.state().spawned);
        self.tasks.extend(spawned.into_iter().map(|(number, owner, task)| (number, (owner, task))));
    }
}

struct TaskWaker {
    number: u64,
    handle: Handle,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.handle.state().ready.insert(self.number);
    }
}

impl Handle {
    /// Spawns a task.
    pub fn spawn(&self, owner: Owner, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.state();
        let number = state.next_number();
        state.ready.insert(number);
        state.spawned.push((number, owner, task.boxed()));
    }

    /// Sets how far the wall clock is ahead of the elapsed time.
    pub fn set_skew(&self, skew: SignedDuration) {
        self.state().skew = skew;
    }

    /// How far the wall clock is ahead of the elapsed time.
    pub fn skew(&self) -> SignedDuration {
        self.state().skew
    }

    /// Forgets the last UUID, as a new process does.
    pub fn forget_ids(&self) {
        self.state().last_uuid = 0;
    }

    /// The elapsed time of the run. It never jumps.
    pub fn true_time(&self) -> Duration {
        self.state().elapsed
    }

    /// Waits for this duration.
    pub async fn pause(&self, duration: Duration) {
        self.sleep(duration).await;
    }

    fn state(&self) -> MutexGuard<'_, ExecutorState> {
        self.0.lock().unwrap()
    }

    /// Moves the time to the next timer. Returns false if there is none.
    fn advance_to_next_timer(&self) -> bool {
        let woken = {
            let mut state = self.state();
            let Some((&(due, _), _)) = state.sleepers.first_key_value() else { return false };
            state.elapsed = state.elapsed.max(due);
            let later = state.sleepers.split_off(&(due, u64::MAX));
            std::mem::replace(&mut state.sleepers, later)
        };
        woken.into_values().for_each(Waker::wake);
        true
    }
}

impl ExecutorState {
    fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn wall(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.elapsed).unwrap() + self.skew;
        Timestamp::constant(1_772_366_400, 0) + passed
    }
}

impl std::fmt::Debug for ExecutorState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}", self.elapsed)
    }
}

impl Time for Handle {
    fn now(&self) -> Timestamp {
        self.state().wall()
    }

    fn elapsed(&self) -> Duration {
        self.true_time()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        let due = self.state().elapsed.saturating_add(duration);
        Sleep { handle: self.clone(), due, timer: None }.boxed()
    }

    fn random(&self) -> [u8; 32] {
        let mut state = self.state();
        let mut bits = [0; 32];
        bits.chunks_mut(8)
            .for_each(|chunk| chunk.copy_from_slice(&state.bits.next().to_le_bytes()));
        bits
    }

    fn uuid(&self) -> Uuid {
        let random = self.random();
        let mut state = self.state();
        // The timestamps of one process never go back, even if its clock does.
        state.last_uuid = (state.last_uuid + 1).max(state.wall().as_millisecond());
        let milliseconds = u64::try_from(state.last_uuid).unwrap();
        let random = random.first_chunk().unwrap();
        uuid::Builder::from_unix_timestamp_millis(milliseconds, random).into_uuid()
    }
}

struct Sleep {
    handle: Handle,
    due: Duration,
    timer: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let handle = self.handle.clone();
        let mut state = handle.state();
        if state.elapsed >= self.due {
            return Poll::Ready(());
        }
        let due = self.due;
        let timer = *self.timer.get_or_insert_with(|| (due, state.next_number()));
        state.sleepers.insert(timer, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            let waker = self.handle.state().sleepers.remove(&timer);
            drop(waker);
        }
    }
}

#[test]
fn a_seed_chooses_the_order_of_tasks() {
    let log = |seed| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut executor = Executor::new(&mut Random::new(seed));
        let (sender, _) = tokio::sync::watch::channel(());
        for number in 0..8 {
            let (handle, log, mut woken) =
                (executor.handle(), Arc::clone(&log), sender.subscribe());
            executor.handle().spawn(Owner::Environment, async move {
                woken.changed().await.unwrap();
                log.lock().unwrap().push((number, handle.true_time(), handle.uuid()));
            });
        }
        let handle = executor.handle();
        executor.handle().spawn(Owner::Environment, async move {
            handle.pause(Duration::from_hours(1)).await;
            sender.send_replace(());
            std::future::pending::<()>().await;
        });
        while executor.step() != Progress::Stuck {}
        Arc::try_unwrap(log).unwrap().into_inner().unwrap()
    };
    assert_eq!(log(1), log(1));
    let order = |seed| log(seed).into_iter().map(|(number, ..)| number).collect::<Vec<_>>();
    assert_ne!(order(1), order(2));
    assert!(log(1).iter().all(|(_, at, _)| *at == Duration::from_hours(1)));
}

#[test]
fn a_task_of_a_killed_process_does_not_go_on() {
    let mut executor = Executor::new(&mut Random::new(1));
    let handle = executor.handle();
    let (sender, mut receiver) = tokio::sync::oneshot::channel();
    handle.spawn(Owner::Daemon(1), async move {
        let _ = sender.send(());
    });
    executor.kill(Owner::Daemon(1));
    assert_eq!(executor.step(), Progress::Task);
    assert_eq!(executor.step(), Progress::Stuck);
    assert!(receiver.try_recv().is_err());
}
