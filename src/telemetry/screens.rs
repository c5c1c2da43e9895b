//! The metrics of screens: connections to the host, frames, viewers, text recognition and input.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The histogram buckets of text recognition, in seconds.
const READ_BUCKETS: [f64; 7] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The histogram buckets of one input message, in seconds: from otter's call until the socket of
/// the host has it.
const INPUT_BUCKETS: [f64; 7] = [0.000_1, 0.000_5, 0.001, 0.005, 0.025, 0.1, 1.0];

/// The metrics of screens. Clones share them. The functions record events and set gauges.
#[derive(Clone)]
pub struct ScreenMetrics {
    open: Gauge,
    connections: Family<ResultLabels, Counter>,
    frames: Counter,
    pictures: Family<ResultLabels, Counter>,
    viewers: Family<ModeLabels, Gauge>,
    reads: Histogram,
    input: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModeLabels {
    mode: &'static str,
}

impl ScreenMetrics {
    /// Creates the metrics and registers them.
    pub fn register(table: &mut Registry) -> Self {
        let metrics = Self {
            open: Gauge::default(),
            connections: Family::default(),
            frames: Counter::default(),
            pictures: Family::default(),
            viewers: Family::default(),
            reads: Histogram::new(READ_BUCKETS),
            input: Histogram::new(INPUT_BUCKETS),
        };
        let Self { open, connections, frames, pictures, viewers, reads, input } = &metrics;
        table.register("screens_open", "Connections to screens of machines", open.clone());
        table.register(
            "screen_connections",
            "Tries to connect to a screen, by result",
            connections.clone(),
        );
        table.register(
            "screen_frames",
            "Versions of screens: changes that the host sent",
            frames.clone(),
        );
        table.register(
            "screen_pictures",
            "Pictures that were read because the host refuses a connection to the screen, by \
             result",
            pictures.clone(),
        );
        table.register("screen_viewers", "Viewers of screens, by mode", viewers.clone());
        table.register_with_unit(
            "screen_read",
            "Recognitions of text on screens, and how long each took",
            Unit::Seconds,
            reads.clone(),
        );
        table.register_with_unit(
            "screen_input",
            "Messages of input, and the time until the connection to the host has taken each",
            Unit::Seconds,
            input.clone(),
        );
        metrics
    }

    /// Counts a connection that was opened, if `opened`, or that ended.
    pub fn connection_open(&self, opened: bool) {
        if opened {
            self.open.inc();
        } else {
            self.open.dec();
        }
    }

    /// Counts a try to connect.
    pub fn record_connection(&self, result: &'static str) {
        self.connections.get_or_create(&ResultLabels { result }).inc();
    }

    /// Counts a version of a screen.
    pub fn record_frame(&self) {
        self.frames.inc();
    }

    /// Counts the read of a picture.
    pub fn record_picture(&self, result: &'static str) {
        self.pictures.get_or_create(&ResultLabels { result }).inc();
    }

    /// Counts a viewer that came, if `came`, or that left.
    pub fn viewer(&self, mode: &'static str, came: bool) {
        let viewers = self.viewers.get_or_create(&ModeLabels { mode });
        if came {
            viewers.inc();
        } else {
            viewers.dec();
        }
    }

    /// Records a recognition of text.
    pub fn record_read(&self, took: Duration) {
        self.reads.observe(took.as_secs_f64());
    }

    /// Records a message of input.
    pub fn record_input(&self, took: Duration) {
        self.input.observe(took.as_secs_f64());
    }
}
