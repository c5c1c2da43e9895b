//! The metrics of artifacts and of recordings.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The histogram buckets of the work that makes the artifacts of one recording, in seconds.
const RENDER_BUCKETS: [f64; 7] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];

/// The metrics of artifacts and of recordings. Clones share them. The functions record events and
/// set gauges.
#[derive(Clone)]
pub struct ArtifactMetrics {
    kept: Gauge,
    kept_bytes: Gauge<u64, AtomicU64>,
    stored: Family<SourceLabels, Counter>,
    deleted: Family<ReasonLabels, Counter>,
    recording: Gauge,
    ended: Family<ReasonLabels, Counter>,
    recorded_bytes: Counter,
    rendered: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

impl ArtifactMetrics {
    /// Creates the metrics and registers them.
    pub fn register(table: &mut Registry) -> Self {
        let metrics = Self {
            kept: Gauge::default(),
            kept_bytes: Gauge::default(),
            stored: Family::default(),
            deleted: Family::default(),
            recording: Gauge::default(),
            ended: Family::default(),
            recorded_bytes: Counter::default(),
            rendered: Histogram::new(RENDER_BUCKETS),
        };
        let Self { kept, kept_bytes, stored, deleted, recording, ended, recorded_bytes, rendered } =
            &metrics;
        table.register("artifacts", "Artifacts that otter keeps", kept.clone());
        table.register_with_unit(
            "artifacts",
            "The size of all artifacts that otter keeps",
            Unit::Bytes,
            kept_bytes.clone(),
        );
        table.register(
            "artifacts_stored",
            "Artifacts that were stored, by source: otter or a caller",
            stored.clone(),
        );
        table.register(
            "artifacts_deleted",
            "Artifacts that were deleted, by reason: a call, their age, the total of all \
             artifacts, or a file that was missing",
            deleted.clone(),
        );
        table.register("recordings_open", "Recordings that run", recording.clone());
        table.register("recordings_ended", "Recordings that ended, by reason", ended.clone());
        table.register_with_unit(
            "recordings",
            "Bytes that recordings wrote to the disk",
            Unit::Bytes,
            recorded_bytes.clone(),
        );
        table.register_with_unit(
            "recording_render",
            "Recordings of which the artifacts were made, and how long each took",
            Unit::Seconds,
            rendered.clone(),
        );
        metrics
    }

    /// Counts an artifact that is found when otter starts.
    pub fn found(&self, bytes: u64) {
        self.kept.inc();
        self.kept_bytes.inc_by(bytes);
    }

    /// Counts an artifact that was stored.
    pub fn stored(&self, source: &'static str, bytes: u64) {
        self.found(bytes);
        self.stored.get_or_create(&SourceLabels { source }).inc();
    }

    /// Counts an artifact that was deleted. It was counted before as found or stored.
    pub fn deleted(&self, reason: &'static str, bytes: u64) {
        self.kept.dec();
        self.kept_bytes.dec_by(bytes);
        self.deleted.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts a recording that started.
    pub fn recording_started(&self) {
        self.recording.inc();
    }

    /// Counts a recording that ended.
    pub fn recording_ended(&self, reason: &'static str) {
        self.recording.dec();
        self.ended.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts bytes that a recording wrote.
    pub fn recorded(&self, bytes: u64) {
        self.recorded_bytes.inc_by(bytes);
    }

    /// Records that the artifacts of a recording were made.
    pub fn rendered(&self, took: Duration) {
        self.rendered.observe(took.as_secs_f64());
    }
}
