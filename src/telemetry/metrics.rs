//! The metrics at `/metrics`. [`Metrics::default`] registers the name of each metric with its help.
//! For leases, [`super::leases`] does so.
//!
//! Events are counted when they happen. States, such as the length of a queue, are sampled just
//! before a scrape. The values of labels come from otter and its configuration, never from a
//! caller, so their number is bounded.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::artifacts::ArtifactMetrics;
use super::leases::LeaseMetrics;
use super::screens::ScreenMetrics;
use super::serial::SerialMetrics;

/// The media type of the text that [`Metrics::text`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The histogram buckets for the durations of calls, in seconds. The last bucket is the maximum
/// time of a waiting call.
const LATENCY_BUCKETS: [f64; 10] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// The histogram buckets for the durations of jobs, in seconds: from a power-on to the removal of a
/// large snapshot.
const JOB_DURATION_BUCKETS: [f64; 10] =
    [0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0];

/// All metrics of otter. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    sample: Mutex<Option<SampleFunction>>,
    http: HttpRequests,
    jobs_accepted: Family<KindLabels, Counter>,
    jobs_ended: Family<JobEndLabels, Histogram, fn() -> Histogram>,
    leases: LeaseMetrics,
    screens: ScreenMetrics,
    serial: SerialMetrics,
    artifacts: ArtifactMetrics,
    unmatched_patterns: Family<SettingLabels, Gauge>,
    soap: Family<SoapLabels, Histogram, fn() -> Histogram>,
    session_up: Gauge,
    logins: Counter,
    outage: Counter<f64, AtomicU64>,
    streams_open: Gauge,
    stream_resets: Family<ReasonLabels, Counter>,
    disconnected_since: Mutex<Option<Duration>>,
    levels: SampledMetrics,
}

/// The metrics that show a state. The function that was passed to [`Metrics::before_scrape`] sets
/// them before each scrape.
#[derive(Clone, Debug, Default)]
pub struct SampledMetrics {
    pub jobs_waiting: Gauge,
    pub jobs_running: Gauge,
    pub machines: Gauge,
    pub datastores: Gauge,
    pub inventory_age: Gauge<f64, AtomicU64>,
    pub waits: Gauge,
    pub events: Counter,
    pub store_transactions: Counter,
    pub store_statements: Counter,
    pub store_refusals: Counter,
    pub store_failing: Gauge,
}

type SampleFunction = Arc<dyn Fn(&Metrics) + Send + Sync>;

type HttpRequests = Family<HttpLabels, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    operation: String,
    status: &'static str,
}

/// The classes of HTTP statuses, as the label `status` shows them.
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Records the requests of one API operation. It keeps the operation's histograms, so that a
/// request needs no lookup in the registry.
pub struct OperationMetrics {
    requests: HttpRequests,
    operation: String,
    /// The histogram for each class of HTTP statuses. The first request with a status of the class
    /// makes it.
    by_class: [OnceLock<Histogram>; STATUS_CLASSES.len()],
}

impl OperationMetrics {
    /// The text that names the operation: its method and the pattern of its route.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.operation
    }

    /// Records that a request of this operation ended with this status and took this time.
    pub fn record(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, STATUS_CLASSES.len()) - 1;
        let histogram = self.by_class[class].get_or_init(|| {
            let (operation, status) = (self.operation.clone(), STATUS_CLASSES[class]);
            self.requests.get_or_create_owned(&HttpLabels { operation, status })
        });
        histogram.observe(took.as_secs_f64());
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobEndLabels {
    kind: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SettingLabels {
    setting: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SoapLabels {
    method: &'static str,
    result: &'static str,
}

impl SampledMetrics {
    fn register(&self, table: &mut Registry) {
        let SampledMetrics {
            jobs_waiting,
            jobs_running,
            machines,
            datastores,
            inventory_age,
            waits,
            events,
            store_transactions,
            store_statements,
            store_refusals,
            store_failing,
        } = self.clone();
        table.register("jobs_waiting", "Jobs that wait for their turn", jobs_waiting);
        table.register("jobs_running", "Jobs that run", jobs_running);
        table.register("inventory_machines", "Machines in the inventory", machines);
        table.register("inventory_datastores", "Datastores in the inventory", datastores);
        table.register_with_unit(
            "inventory_age",
            "Time since the last change that the host reported; NaN before the inventory is loaded",
            Unit::Seconds,
            inventory_age,
        );
        table.register("waits_open", "Calls that block", waits);
        table.register("events", "Events that were published", events);
        table.register(
            "store_transactions",
            "Transactions that were committed to the disk",
            store_transactions,
        );
        table.register(
            "store_refusals",
            "Writes that the disk or the database refused",
            store_refusals,
        );
        table.register(
            "store_failing",
            "1 while commits are refused: otter accepts no job and ends none",
            store_failing,
        );
        table.register("store_statements", "Statements that the database ran", store_statements);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let latencies: fn() -> Histogram = || Histogram::new(LATENCY_BUCKETS);
        let job_times: fn() -> Histogram = || Histogram::new(JOB_DURATION_BUCKETS);
        let http = Family::new_with_constructor(latencies);
        let jobs_accepted = Family::default();
        let jobs_ended = Family::new_with_constructor(job_times);
        let soap = Family::new_with_constructor(latencies);
        let (session_up, logins, outage) =
            (Gauge::default(), Counter::default(), Counter::default());
        let (streams_open, stream_resets) = (Gauge::default(), Family::default());
        let levels = SampledMetrics::default();
        let mut table = Registry::with_prefix("otter");
        levels.register(&mut table);
        table.register_with_unit(
            "http_request",
            "Requests by operation and class of status, and how long each took, its wait included",
            Unit::Seconds,
            http.clone(),
        );
        table.register("jobs_accepted", "Jobs that were accepted, by kind", jobs_accepted.clone());
        table.register_with_unit(
            "job",
            "Jobs that ended, by kind and state, and the time since each was accepted",
            Unit::Seconds,
            jobs_ended.clone(),
        );
        let leases = LeaseMetrics::register(&mut table);
        let screens = ScreenMetrics::register(&mut table);
        let serial = SerialMetrics::register(&mut table);
        let artifacts = ArtifactMetrics::register(&mut table);
        let unmatched_patterns = Family::default();
        table.register(
            "unmatched_patterns",
            "Patterns and ids of a setting of the configuration that match no machine",
            unmatched_patterns.clone(),
        );
        table.register_with_unit(
            "soap_call",
            "Calls to the host by method and result, and their duration; a wait for updates is \
             long by design",
            Unit::Seconds,
            soap.clone(),
        );
        table.register("session_up", "1 while the session with the host is up", session_up.clone());
        table.register("session_logins", "Logins that the host accepted", logins.clone());
        table.register_with_unit(
            "session_outage",
            "The total time without a session, including the time before the first login",
            Unit::Seconds,
            outage.clone(),
        );
        table.register(
            "event_streams_open",
            "Streams of events that are being read",
            streams_open.clone(),
        );
        table.register(
            "event_stream_resets",
            "Readers of events that must load all objects again, by reason: the events after \
             their position are gone, or they are too slow",
            stream_resets.clone(),
        );

        Self(Arc::new(Inner {
            registry: table,
            sample: Mutex::default(),
            http,
            jobs_accepted,
            jobs_ended,
            leases,
            screens,
            serial,
            artifacts,
            unmatched_patterns,
            soap,
            session_up,
            logins,
            outage,
            streams_open,
            stream_resets,
            disconnected_since: Mutex::new(Some(Duration::ZERO)),
            levels,
        }))
    }
}

impl Metrics {
    /// Registers the function that is called before each scrape. It must set the
    /// [`SampledMetrics`].
    pub fn before_scrape(&self, sample: impl Fn(&Self) + Send + Sync + 'static) {
        *self.sample() = Some(Arc::new(sample));
    }

    /// Drops the function that is called before each scrape. It holds the services, which hold the
    /// metrics, so without this call none of them is ever dropped.
    pub fn forget_sample(&self) {
        self.sample().take();
    }

    /// All metrics as text in the `OpenMetrics` format, which Prometheus reads.
    ///
    /// # Errors
    /// Never fails in practice, because writing to a `String` does not fail.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let sample = self.sample().clone();
        if let Some(sample) = sample {
            sample(self);
        }
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }

    fn sample(&self) -> MutexGuard<'_, Option<SampleFunction>> {
        self.0.sample.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn sampled(&self) -> &SampledMetrics {
        &self.0.levels
    }

    /// Makes the recorder for the requests of one API operation. `operation` is its method and the
    /// pattern of its route.
    #[must_use]
    pub fn operation(&self, operation: String) -> OperationMetrics {
        OperationMetrics { requests: self.0.http.clone(), operation, by_class: Default::default() }
    }

    pub fn job_accepted(&self, kind: &'static str) {
        self.0.jobs_accepted.get_or_create(&KindLabels { kind }).inc();
    }

    /// Records the end of a job. `took` is the time from its acceptance to its end.
    pub fn job_ended(&self, kind: &'static str, state: &'static str, took: Duration) {
        self.0.jobs_ended.get_or_create(&JobEndLabels { kind, state }).observe(took.as_secs_f64());
    }

    /// Removes, for all settings, the numbers of patterns that match no machine. A reload can
    /// remove a setting, whose number must then disappear.
    pub fn clear_unmatched_patterns(&self) {
        self.0.unmatched_patterns.clear();
    }

    /// Sets, for one setting, the number of patterns that match no machine.
    pub fn unmatched_patterns(&self, setting: &str, count: i64) {
        let labels = SettingLabels { setting: setting.to_owned() };
        self.0.unmatched_patterns.get_or_create(&labels).set(count);
    }

    /// The metrics of leases.
    #[must_use]
    pub fn leases(&self) -> &LeaseMetrics {
        &self.0.leases
    }

    /// The metrics of serial ports.
    #[must_use]
    pub fn serial(&self) -> &SerialMetrics {
        &self.0.serial
    }

    /// The metrics of screens.
    #[must_use]
    pub fn screens(&self) -> &ScreenMetrics {
        &self.0.screens
    }

    /// The metrics of artifacts and of recordings.
    #[must_use]
    pub fn artifacts(&self) -> &ArtifactMetrics {
        &self.0.artifacts
    }

    /// Records a call to the host.
    pub fn record_host_call(&self, method: &'static str, result: &'static str, took: Duration) {
        self.0.soap.get_or_create(&SoapLabels { method, result }).observe(took.as_secs_f64());
    }

    /// Records whether otter has a session with the host. `now` is the time of the monotonic clock.
    pub fn record_session(&self, up: bool, now: Duration) {
        self.0.session_up.set(i64::from(up));
        self.count_outage(now, |since| if up { None } else { since.or(Some(now)) });
    }

    pub fn record_login(&self) {
        self.0.logins.inc();
    }

    /// Counts a stream of events as open until the returned value is dropped.
    #[must_use]
    pub fn stream_opened(&self) -> OpenStream {
        self.0.streams_open.inc();
        OpenStream(self.0.streams_open.clone())
    }

    /// Records that a reader of events got a `reset`, so that it must load all objects again.
    pub fn stream_reset(&self, reason: &'static str) {
        self.0.stream_resets.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// If the host is away, adds the time of the outage up to `now` to the total.
    pub fn count_outage_until(&self, now: Duration) {
        self.count_outage(now, |since| since);
    }

    fn count_outage(&self, now: Duration, next: impl FnOnce(Option<Duration>) -> Option<Duration>) {
        let mut since = self.0.disconnected_since.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = *since;
        if let Some(gone) = gone {
            self.0.outage.inc_by(now.saturating_sub(gone).as_secs_f64());
        }
        *since = next(gone.map(|_| now));
    }
}

/// Counts one stream of events as open. Dropping this value decrements the gauge.
#[derive(Debug)]
pub struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl SampledMetrics {
    /// Sets a counter to a number that another component counts.
    pub fn count(counter: &Counter, value: u64) {
        counter.inner().store(value, Ordering::Relaxed);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(metrics: &Metrics, name: &str) -> Option<String> {
        let text = metrics.text().unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned)
    }

    #[test]
    fn the_time_of_outages_is_added_up() {
        let seconds = Duration::from_secs;
        let metrics = Metrics::default();
        let outage = |at| {
            metrics.count_outage_until(seconds(at));
            value(&metrics, "otter_session_outage_seconds_total").unwrap()
        };
        assert_eq!(outage(3), "3.0", "the time before the first login is an outage");
        metrics.record_session(true, seconds(5));
        assert_eq!(outage(9), "5.0");
        metrics.record_session(false, seconds(10));
        metrics.record_session(false, seconds(12));
        assert_eq!(outage(14), "9.0");
        metrics.record_session(true, seconds(15));
        assert_eq!(outage(60), "10.0");
        assert_eq!(value(&metrics, "otter_session_up"), Some("1".to_owned()));
    }

    #[test]
    fn every_metric_has_its_help() {
        let metrics = Metrics::default();
        metrics.operation("GET /v1/machines".to_owned()).record(204, Duration::from_millis(2));
        metrics.job_accepted("machine.power_on");
        metrics.job_ended("machine.power_on", "failed", Duration::from_secs(2));
        let leases = metrics.leases();
        leases.set_open("active", 3);
        leases.set_quarantined(2);
        leases.record_active(Duration::from_secs(2));
        leases.record_ended("expired", Some(Duration::from_mins(1)));
        leases.record_ended("abandoned", None);
        leases.record_prepare_failure();
        leases.record_release_failure();
        metrics.unmatched_patterns("machines.protected", 2);
        metrics.record_host_call("Login", "ok", Duration::from_millis(20));
        metrics.stream_reset("too_slow");
        let _open = metrics.stream_opened();
        metrics.before_scrape(|metrics| {
            SampledMetrics::count(&metrics.sampled().store_transactions, 7);
        });
        let text = metrics.text().unwrap();
        let types = text.lines().filter(|line| line.starts_with("# TYPE otter_")).count();
        let helps = text.lines().filter(|line| line.starts_with("# HELP otter_")).count();
        assert_eq!((types, helps), (39, 39), "{text}");
        assert!(text.ends_with("# EOF\n"));
        for (name, expected) in [
            (
                "otter_http_request_seconds_count{operation=\"GET /v1/machines\",status=\"2xx\"}",
                "1",
            ),
            ("otter_jobs_accepted_total{kind=\"machine.power_on\"}", "1"),
            ("otter_job_seconds_count{kind=\"machine.power_on\",state=\"failed\"}", "1"),
            ("otter_leases_open{state=\"active\"}", "3"),
            ("otter_lease_wait_seconds_sum", "2.0"),
            ("otter_lease_held_seconds_sum", "60.0"),
            ("otter_lease_held_seconds_count", "1"),
            ("otter_leases_ended_total{reason=\"abandoned\"}", "1"),
            ("otter_machines_quarantined", "2"),
            ("otter_unmatched_patterns{setting=\"machines.protected\"}", "2"),
            ("otter_lease_prepare_failures_total", "1"),
            ("otter_lease_release_failures_total", "1"),
            ("otter_soap_call_seconds_count{method=\"Login\",result=\"ok\"}", "1"),
            ("otter_event_stream_resets_total{reason=\"too_slow\"}", "1"),
            ("otter_event_streams_open", "1"),
            ("otter_store_transactions_total", "7"),
        ] {
            assert_eq!(value(&metrics, name), Some(expected.to_owned()), "{name} in {text}");
        }
    }
}
