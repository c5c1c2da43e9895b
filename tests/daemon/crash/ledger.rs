//! What the client of a lane sent and was told, and every way in which otter may not contradict it.
//!
//! Each order carries a reference of its own, so that a job whose acceptance nobody heard of is
//! known all the same. An end that was told is kept, and whatever is told later must agree.
//! Contradictions are collected, not thrown: some tests want them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Method;
use serde_json::Value;

/// One call that starts a job. Repeated under its key it is the same order.
#[derive(Clone, Debug)]
pub struct Order {
    pub method: Method,
    pub path: String,
    /// Without the wait.
    pub query: String,
    pub body: Option<Value>,
    pub key: Option<String>,
    pub reference: String,
    pub machine: String,
}

/// Shared by all that talk to one otter.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    orders: BTreeMap<String, Entry>,
    /// Jobs that were told to be accepted, and what is known of each.
    jobs: BTreeMap<String, Known>,
    /// Counts questions and ends, to tell which came first.
    now: u64,
    next: u64,
    wrongs: Vec<String>,
}

struct Entry {
    order: Order,
    job: Option<String>,
    /// Refused, and nothing was started.
    refused: bool,
    /// In which life it was sent last.
    life: u32,
}

#[derive(Clone, Default)]
struct Known {
    machine: String,
    end: Option<End>,
    /// When it was told that somebody asked to cancel it.
    to_be_cancelled: Option<u64>,
    /// In which life it was last looked at after a start.
    seen_in: u32,
}

/// An end as it was told.
#[derive(Clone, Debug)]
struct End {
    at: u64,
    state: String,
    /// Result, the error's code and the time; none where only a problem told of it.
    whole: Option<[Value; 3]>,
}

/// A point in the order of what was asked and told.
#[derive(Clone, Copy)]
pub struct Asked(u64);

impl Ledger {
    /// A reference, or a key, or a name, that no other has.
    pub fn fresh(&self, prefix: &str) -> String {
        let mut book = self.book();
        book.next += 1;
        format!("{prefix}-{}", book.next)
    }

    /// The moment before a question: an answer to it may be older than what is told meanwhile.
    pub fn ask(&self) -> Asked {
        let mut book = self.book();
        book.now += 1;
        Asked(book.now)
    }

    /// An order is about to be sent.
    pub fn sending(&self, order: &Order, life: u32) {
        let mut book = self.book();
        let entry = Entry { order: order.clone(), job: None, refused: false, life };
        book.orders.entry(order.reference.clone()).or_insert(entry).life = life;
    }

    /// The order was answered with this job.
    pub fn accepted(&self, order: &Order, job: &str) {
        let mut book = self.book();
        let Some(entry) = book.orders.get_mut(&order.reference) else { return };
        entry.refused = false;
        let first = entry.job.get_or_insert_with(|| job.to_owned()).clone();
        if first != job {
            book.wrong(format!(
                "the key {:?} was answered with the job {job}, and {first} before",
                order.key
            ));
        }
        let known = book.jobs.entry(job.to_owned()).or_default();
        known.machine.clone_from(&order.machine);
    }

    /// The order was refused.
    pub fn refused(&self, order: &Order, answer: &str) {
        let mut book = self.book();
        let Some(entry) = book.orders.get_mut(&order.reference) else { return };
        match entry.job.clone() {
            Some(job) => {
                book.wrong(format!(
                    "the key {:?} of the job {job} was answered with {answer}",
                    order.key
                ));
            }
            None => entry.refused = true,
        }
    }

    /// A job was shown, in answer to a question.
    pub fn shown(&self, asked: Asked, job: &Value) {
        let text = |field: &str| job[field].as_str().unwrap_or_default().to_owned();
        let (id, state) = (text("id"), text("state"));
        let ended = !matches!(state.as_str(), "queued" | "running");
        let whole =
            [job["result"].clone(), job["error"]["code"].clone(), job["finished_at"].clone()];
        let mut book = self.book();
        book.now += 1;
        let now = book.now;
        if let Some(reference) = job["reference"].as_str()
            && !book.orders.contains_key(reference)
        {
            book.wrong(format!("nobody ordered the job {id} with the reference {reference}"));
        }
        let known = book.jobs.entry(id.clone()).or_default();
        known.machine = text("machine");
        let wrong = match &mut known.end {
            Some(end) if !ended && asked.0 > end.at => {
                Some(format!("the end {} of the job {id} was taken back: it is {state}", end.state))
            }
            Some(end) if ended => match &end.whole {
                _ if end.state != state => {
                    Some(format!("the job {id} ended {} and is {state}", end.state))
                }
                Some(told) if *told != whole => {
                    Some(format!("the end of the job {id} was told as {told:?} and is {whole:?}"))
                }
                _ => {
                    end.whole = Some(whole);
                    None
                }
            },
            None if ended => {
                known.end = Some(End { at: now, state, whole: Some(whole) });
                None
            }
            _ => None,
        };
        let forgotten = job["cancel_requested_at"].is_null()
            && known.to_be_cancelled.is_some_and(|told| asked.0 > told);
        if !job["cancel_requested_at"].is_null() {
            known.to_be_cancelled.get_or_insert(now);
        }
        let forgotten =
            forgotten.then(|| format!("the job {id} forgot that it is to be cancelled"));
        let wrongs: Vec<String> = wrong.into_iter().chain(forgotten).collect();
        book.wrongs.extend(wrongs);
    }

    /// A problem told of a job's end.
    pub fn shown_by_problem(&self, job: &str, code: &str) {
        let state = match code {
            "outcome-unknown" => "unknown",
            "job-cancelled" => "cancelled",
            _ => "failed",
        };
        let mut book = self.book();
        book.now += 1;
        let now = book.now;
        let known = book.jobs.entry(job.to_owned()).or_default();
        let end =
            known.end.get_or_insert_with(|| End { at: now, state: state.to_owned(), whole: None });
        if end.state != state {
            let wrong = format!("the job {job} ended {} and its problem is {code}", end.state);
            book.wrong(wrong);
        }
    }

    /// The jobs to look at after a start: those without an end, and those that have not been looked
    /// at since they ended.
    pub fn to_be_verified(&self, life: u32) -> Vec<String> {
        let book = self.book();
        let stale = |known: &Known| known.end.is_none() || known.seen_in == 0;
        let jobs = book.jobs.iter().filter(|(_, known)| stale(known) && known.seen_in < life);
        jobs.map(|(id, _)| id.clone()).collect()
    }

    /// The job was asked for after a start and is there.
    pub fn verified(&self, job: &str, life: u32) {
        if let Some(known) = self.book().jobs.get_mut(job) {
            known.seen_in = life;
        }
    }

    /// The orders with keys that the last lives sent, to be repeated.
    pub fn to_be_repeated(&self, since_life: u32) -> Vec<Order> {
        let book = self.book();
        let keyed =
            book.orders.values().filter(|entry| entry.order.key.is_some() && !entry.refused);
        keyed.filter(|entry| entry.life >= since_life).map(|entry| entry.order.clone()).collect()
    }

    /// The jobs that were accepted and have not been told to have ended, with their machines.
    pub fn unfinished(&self) -> Vec<(String, String)> {
        let book = self.book();
        let jobs = book.jobs.iter().filter(|(_, known)| known.end.is_none());
        jobs.map(|(id, known)| (id.clone(), known.machine.clone())).collect()
    }

    /// Holds all jobs of otter's against what was sent and told.
    pub fn settle(&self, jobs: &[Value]) {
        let asked = self.ask();
        for job in jobs {
            self.shown(asked, job);
        }
        let mut book = self.book();
        let mut by_reference: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut there = BTreeSet::new();
        for job in jobs {
            let id = job["id"].as_str().unwrap();
            there.insert(id);
            by_reference.entry(job["reference"].as_str().unwrap_or_default()).or_default().push(id);
            if job["finished_at"].is_null() {
                book.wrong(format!("the job {id} has no end"));
            }
        }
        let doubled = by_reference.into_iter().filter(|(_, ids)| ids.len() > 1);
        let doubled =
            doubled.map(|(order, ids)| format!("the order {order} made several jobs: {ids:?}"));
        let lost = book.jobs.keys().filter(|id| !there.contains(id.as_str()));
        let lost = lost.map(|id| format!("the job {id} was accepted and is lost"));
        let wrongs: Vec<String> = doubled.chain(lost).collect();
        book.wrongs.extend(wrongs);
    }

    /// Notes that otter was wrong.
    pub fn wrong(&self, what: String) {
        self.book().wrong(what);
    }

    /// All that was wrong.
    pub fn wrongs(&self) -> Vec<String> {
        self.book().wrongs.clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn wrong(&mut self, what: String) {
        self.wrongs.push(what);
    }
}
