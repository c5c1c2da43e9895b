//! The log of the requests and answers of a worker. It checks each answer against the earlier ones.
//!
//! Each request has its own reference, so that a job is recognised even if the answer with its id
//! was lost. The log keeps the reported end of each job, and every later answer must agree with it.
//! The log collects violations instead of panicking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Method;
use serde_json::Value;

/// A request that starts a job. A repetition with the same key is the same request.
#[derive(Clone, Debug)]
pub struct JobRequest {
    pub method: Method,
    pub path: String,
    /// The query without the parameter `wait`.
    pub query: String,
    pub body: Option<Value>,
    pub key: Option<String>,
    pub reference: String,
    pub machine: String,
}

/// The call log, shared by all clients of one otter.
#[derive(Clone, Default)]
pub struct CallLog(Arc<Mutex<CallLogState>>);

#[derive(Default)]
struct CallLogState {
    requests: BTreeMap<String, Entry>,
    /// The jobs that otter has reported.
    jobs: BTreeMap<String, KnownJob>,
    /// A counter of requests and reports, which orders them in time.
    now: u64,
    next: u64,
    violations: Vec<String>,
}

struct Entry {
    request: JobRequest,
    job: Option<String>,
    /// Whether otter refused the request, so that no job was started.
    refused: bool,
    /// The run of the daemon in which the request was sent last.
    run: u32,
}

#[derive(Clone, Default)]
struct KnownJob {
    machine: String,
    end: Option<ReportedEnd>,
    /// When otter first reported that a caller asked to cancel the job.
    cancel_reported_at: Option<u64>,
    /// The run of the daemon in which the job was last verified.
    verified_in_run: u32,
}

/// The end of a job as otter reported it.
#[derive(Clone, Debug)]
struct ReportedEnd {
    at: u64,
    state: String,
    /// The result, the code of the error, and the time. `None` if only a problem reported the end.
    details: Option<[Value; 3]>,
}

/// The time of a request in the order of requests and reports.
#[derive(Clone, Copy)]
pub struct RequestTime(u64);

impl CallLog {
    /// A unique reference, key or name.
    pub fn unique_name(&self, prefix: &str) -> String {
        let mut log = self.lock();
        log.next += 1;
        format!("{prefix}-{}", log.next)
    }

    /// Notes that a request is about to be sent. Its answer may be older than reports that come in
    /// the meantime.
    pub fn note_request(&self) -> RequestTime {
        let mut log = self.lock();
        log.now += 1;
        RequestTime(log.now)
    }

    /// Records that a request is about to be sent.
    pub fn record_sent(&self, request: &JobRequest, run: u32) {
        let mut log = self.lock();
        let entry = Entry { request: request.clone(), job: None, refused: false, run };
        log.requests.entry(request.reference.clone()).or_insert(entry).run = run;
    }

    /// Records that the answer to a request was this job.
    pub fn record_accepted(&self, request: &JobRequest, job: &str) {
        let mut log = self.lock();
        let Some(entry) = log.requests.get_mut(&request.reference) else { return };
        entry.refused = false;
        let first = entry.job.get_or_insert_with(|| job.to_owned()).clone();
        if first != job {
            log.add_violation(format!(
                "the key {:?} was answered with the job {job}, and {first} before",
                request.key
            ));
        }
        let known = log.jobs.entry(job.to_owned()).or_default();
        known.machine.clone_from(&request.machine);
    }

    /// Records that otter refused a request.
    pub fn record_refused(&self, request: &JobRequest, answer: &str) {
        let mut log = self.lock();
        let Some(entry) = log.requests.get_mut(&request.reference) else { return };
        match entry.job.clone() {
            Some(job) => {
                log.add_violation(format!(
                    "the key {:?} of the job {job} was answered with {answer}",
                    request.key
                ));
            }
            None => entry.refused = true,
        }
    }

    /// Checks a job in the answer to a request against the earlier reports.
    pub fn check_job(&self, asked: RequestTime, job: &Value) {
        let text = |field: &str| job[field].as_str().unwrap_or_default().to_owned();
        let (id, state) = (text("id"), text("state"));
        let ended = !matches!(state.as_str(), "queued" | "running");
        let details =
            [job["result"].clone(), job["error"]["code"].clone(), job["finished_at"].clone()];
        let mut log = self.lock();
        log.now += 1;
        let now = log.now;
        if let Some(reference) = job["reference"].as_str()
            && !log.requests.contains_key(reference)
        {
            log.add_violation(format!("no request has the reference {reference} of the job {id}"));
        }
        let known = log.jobs.entry(id.clone()).or_default();
        known.machine = text("machine");
        let wrong = match &mut known.end {
            Some(end) if !ended && asked.0 > end.at => {
                Some(format!("the job {id} ended {} and is now {state}", end.state))
            }
            Some(end) if ended => match &end.details {
                _ if end.state != state => {
                    Some(format!("the job {id} ended {} and is now {state}", end.state))
                }
                Some(reported) if *reported != details => {
                    Some(format!("the end of the job {id} was {reported:?} and is now {details:?}"))
                }
                _ => {
                    end.details = Some(details);
                    None
                }
            },
            None if ended => {
                known.end = Some(ReportedEnd { at: now, state, details: Some(details) });
                None
            }
            _ => None,
        };
        let forgotten = job["cancel_requested_at"].is_null()
            && known.cancel_reported_at.is_some_and(|reported| asked.0 > reported);
        if !job["cancel_requested_at"].is_null() {
            known.cancel_reported_at.get_or_insert(now);
        }
        let forgotten = forgotten.then(|| format!("the job {id} lost its cancellation"));
        let violations: Vec<String> = wrong.into_iter().chain(forgotten).collect();
        log.violations.extend(violations);
    }

    /// Checks the end of a job that a problem reports.
    pub fn check_problem(&self, job: &str, code: &str) {
        let state = match code {
            "outcome-unknown" => "unknown",
            "job-cancelled" => "cancelled",
            _ => "failed",
        };
        let mut log = self.lock();
        log.now += 1;
        let now = log.now;
        let known = log.jobs.entry(job.to_owned()).or_default();
        let end = known.end.get_or_insert_with(|| ReportedEnd {
            at: now,
            state: state.to_owned(),
            details: None,
        });
        if end.state != state {
            let wrong = format!("the job {job} ended {} and a problem reports {code}", end.state);
            log.add_violation(wrong);
        }
    }

    /// The jobs to verify after a start: those without an end, and those not verified since their
    /// end.
    pub fn unverified_jobs(&self, run: u32) -> Vec<String> {
        let log = self.lock();
        let stale = |known: &KnownJob| known.end.is_none() || known.verified_in_run == 0;
        let jobs = log.jobs.iter().filter(|(_, known)| stale(known) && known.verified_in_run < run);
        jobs.map(|(id, _)| id.clone()).collect()
    }

    /// Records that the job was read after a start.
    pub fn mark_verified(&self, job: &str, run: u32) {
        if let Some(known) = self.lock().jobs.get_mut(job) {
            known.verified_in_run = run;
        }
    }

    /// The requests with keys that were sent in this run of the daemon or later.
    pub fn keyed_requests(&self, since_run: u32) -> Vec<JobRequest> {
        let log = self.lock();
        let keyed =
            log.requests.values().filter(|entry| entry.request.key.is_some() && !entry.refused);
        keyed.filter(|entry| entry.run >= since_run).map(|entry| entry.request.clone()).collect()
    }

    /// The jobs without a reported end, with their machines.
    pub fn unfinished(&self) -> Vec<(String, String)> {
        let log = self.lock();
        let jobs = log.jobs.iter().filter(|(_, known)| known.end.is_none());
        jobs.map(|(id, known)| (id.clone(), known.machine.clone())).collect()
    }

    /// Checks the complete list of jobs against the log.
    pub fn check_all_jobs(&self, jobs: &[Value]) {
        let asked = self.note_request();
        for job in jobs {
            self.check_job(asked, job);
        }
        let mut log = self.lock();
        let mut by_reference: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut listed = BTreeSet::new();
        for job in jobs {
            let id = job["id"].as_str().unwrap();
            listed.insert(id);
            by_reference.entry(job["reference"].as_str().unwrap_or_default()).or_default().push(id);
            if job["finished_at"].is_null() {
                log.add_violation(format!("the job {id} has no end"));
            }
        }
        let duplicates = by_reference.into_iter().filter(|(_, ids)| ids.len() > 1);
        let duplicates = duplicates
            .map(|(request, ids)| format!("the request {request} started several jobs: {ids:?}"));
        let missing = log.jobs.keys().filter(|id| !listed.contains(id.as_str()));
        let missing = missing.map(|id| format!("the job {id} was accepted and is missing"));
        let violations: Vec<String> = duplicates.chain(missing).collect();
        log.violations.extend(violations);
    }

    /// Records a violation.
    pub fn add_violation(&self, what: String) {
        self.lock().add_violation(what);
    }

    /// All violations so far.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    fn lock(&self) -> MutexGuard<'_, CallLogState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallLogState {
    fn add_violation(&mut self, what: String) {
        self.violations.push(what);
    }
}
