//! The metrics of serial ports: connections, bytes, gaps, and the streams of clients.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The metrics of serial ports. Clones share them. The functions record events and set gauges.
#[derive(Clone)]
pub struct SerialMetrics {
    open: Gauge,
    connections: Family<ResultLabels, Counter>,
    bytes: Counter,
    gaps: Family<ReasonLabels, Counter>,
    streams: Family<ModeLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModeLabels {
    mode: &'static str,
}

impl SerialMetrics {
    /// Creates the metrics and registers them.
    pub fn register(table: &mut Registry) -> Self {
        let metrics = Self {
            open: Gauge::default(),
            connections: Family::default(),
            bytes: Counter::default(),
            gaps: Family::default(),
            streams: Family::default(),
        };
        let Self { open, connections, bytes, gaps, streams } = &metrics;
        table.register("serial_ports_open", "Connections to serial ports", open.clone());
        table.register(
            "serial_connections",
            "Tries to connect to a serial port, by result",
            connections.clone(),
        );
        table.register("serial_bytes", "Bytes that serial ports output", bytes.clone());
        table.register(
            "serial_gaps",
            "Places where output of a serial port may be missing, by reason",
            gaps.clone(),
        );
        table.register("serial_streams", "Clients of serial ports, by mode", streams.clone());
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

    /// Counts bytes that a port output.
    pub fn record_bytes(&self, bytes: usize) {
        self.bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Counts a gap.
    pub fn record_gap(&self, reason: &'static str) {
        self.gaps.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts a client that came, if `came`, or that left.
    pub fn stream(&self, mode: &'static str, came: bool) {
        let streams = self.streams.get_or_create(&ModeLabels { mode });
        if came {
            streams.inc();
        } else {
            streams.dec();
        }
    }
}
