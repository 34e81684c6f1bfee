use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

use edgemesh_api::Protocol;
use edgemesh_mesh::Path;
use edgemesh_route::{Access, Direction, Observe, Outcome};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

/// Which connections get an access line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Every connection.
    #[default]
    All,
    /// Those that ended in another way than closed, idle or drained.
    Errors,
    /// None.
    Off,
}

impl FromStr for AccessLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "errors" => Ok(Self::Errors),
            "off" => Ok(Self::Off),
            other => Err(format!("{other:?} is none of all, errors, off")),
        }
    }
}

/// A label value from a fixed vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    direction: Word,
    protocol: Word,
    path: Word,
    outcome: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpenLabels {
    direction: Word,
    protocol: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByteLabels {
    direction: Word,
    path: Word,
    flow: Word,
}

/// One figure that is read when somebody asks.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Name without the `edgemesh_` prefix.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Counters never fall; their exported name ends in `_total`.
    pub counter: bool,
    /// The value now.
    pub value: i64,
}

/// Figures that live in the parts that own them.
pub trait Figures: Send + Sync + 'static {
    /// All of them.
    fn figures(&self) -> Vec<Figure>;
}

struct FigureCollector(Arc<dyn Figures>);

impl std::fmt::Debug for FigureCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FigureCollector")
    }
}

impl Collector for FigureCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for figure in self.0.figures() {
            if figure.counter {
                let metric = ConstCounter::new(figure.value.max(0).unsigned_abs());
                metric.encode(encoder.encode_descriptor(
                    figure.name,
                    figure.help,
                    None,
                    MetricType::Counter,
                )?)?;
            } else {
                let metric = ConstGauge::new(figure.value);
                metric.encode(encoder.encode_descriptor(
                    figure.name,
                    figure.help,
                    None,
                    MetricType::Gauge,
                )?)?;
            }
        }
        Ok(())
    }
}

/// Counters of the data path, and the access log.
pub struct Metrics {
    registry: Registry,
    connections: Family<EndLabels, Counter>,
    open: Family<OpenLabels, Gauge>,
    bytes: Family<ByteLabels, Counter>,
    access_log: AtomicU8,
    open_tcp: AtomicI64,
    open_udp: AtomicI64,
    ended: AtomicU64,
    unserved: AtomicU64,
}

/// Connections and UDP sessions, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionTotals {
    /// Open TCP connections.
    pub open_tcp: i64,
    /// Open UDP sessions.
    pub open_udp: i64,
    /// Ended since the start.
    pub ended: u64,
    /// Of those, the ones without a target or whose every target failed.
    pub unserved: u64,
}

impl Metrics {
    /// Fresh counters; `figures` are read at every scrape.
    pub fn new(access_log: AccessLog, figures: Arc<dyn Figures>) -> Self {
        let (connections, open, bytes) = (Family::default(), Family::default(), Family::default());
        let mut registry = Registry::with_prefix("edgemesh");
        registry.register("connections", "Connections and UDP sessions that ended", connections.clone());
        registry.register("connections_open", "Open connections and UDP sessions", open.clone());
        registry.register("bytes", "Payload bytes of ended connections and sessions", bytes.clone());
        registry.register_collector(Box::new(FigureCollector(figures)));
        Self {
            registry,
            connections,
            open,
            bytes,
            access_log: AtomicU8::new(access_log as u8),
            open_tcp: AtomicI64::new(0),
            open_udp: AtomicI64::new(0),
            ended: AtomicU64::new(0),
            unserved: AtomicU64::new(0),
        }
    }

    /// Changes which connections are logged.
    pub fn set_access_log(&self, access_log: AccessLog) {
        self.access_log.store(access_log as u8, Ordering::Relaxed);
    }

    /// The OpenMetrics text.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::with_capacity(4096);
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Totals for the status page.
    pub fn totals(&self) -> ConnectionTotals {
        ConnectionTotals {
            open_tcp: self.open_tcp.load(Ordering::Relaxed),
            open_udp: self.open_udp.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
            unserved: self.unserved.load(Ordering::Relaxed),
        }
    }

    fn shift_open(&self, direction: Direction, protocol: Protocol, by: i64) {
        let labels = OpenLabels { direction: Word(direction.as_str()), protocol: Word(protocol.as_str()) };
        self.open.get_or_create(&labels).inc_by(by);
        let total = if protocol == Protocol::Udp { &self.open_udp } else { &self.open_tcp };
        total.fetch_add(by, Ordering::Relaxed);
    }

    fn log(&self, access: &Access) {
        let quiet = matches!(access.outcome, Outcome::Closed | Outcome::Idle | Outcome::Drained);
        let access_log = self.access_log.load(Ordering::Relaxed);
        if access_log == AccessLog::Off as u8 || (quiet && access_log == AccessLog::Errors as u8) {
            return;
        }
        tracing::info!(
            target: "edgemesh::access",
            direction = access.direction.as_str(),
            protocol = access.protocol.as_str(),
            client = %access.client,
            frontend = %access.frontend,
            service = access.service.as_ref().map(tracing::field::display),
            backend = access.backend.as_ref().map(tracing::field::display),
            path = access.path.map(Path::as_str),
            sent = access.sent,
            received = access.received,
            duration_ms = u64::try_from(access.duration.as_millis()).unwrap_or(u64::MAX),
            outcome = access.outcome.as_str(),
        );
    }
}

impl Observe for Metrics {
    fn began(&self, direction: Direction, protocol: Protocol) {
        self.shift_open(direction, protocol, 1);
    }

    fn ended(&self, access: Access) {
        self.shift_open(access.direction, access.protocol, -1);
        let path = Word(access.path.map_or("none", Path::as_str));
        let direction = Word(access.direction.as_str());
        let outcome = access.outcome;
        self.connections
            .get_or_create(&EndLabels {
                direction: direction.clone(),
                protocol: Word(access.protocol.as_str()),
                path: path.clone(),
                outcome: Word(outcome.as_str()),
            })
            .inc();
        for (flow, count) in [("sent", access.sent), ("received", access.received)] {
            if count > 0 {
                let labels =
                    ByteLabels { direction: direction.clone(), path: path.clone(), flow: Word(flow) };
                self.bytes.get_or_create(&labels).inc_by(count);
            }
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
        if matches!(outcome, Outcome::Rejected(_) | Outcome::Failed(_)) {
            self.unserved.fetch_add(1, Ordering::Relaxed);
        }
        self.log(&access);
    }
}
