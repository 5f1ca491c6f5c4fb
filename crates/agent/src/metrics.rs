//! What is counted. No label tells tasks or identities apart.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Label = [(&'static str, &'static str); 1];

/// All counters of an agent.
pub(crate) struct Metrics {
    registry: Registry,
    denials: Family<Label, Counter<u64, AtomicU64>>,
    minted: Family<Label, Counter<u64, AtomicU64>>,
    begun: Family<Label, Counter<u64, AtomicU64>>,
    connections: Family<Label, Gauge<i64, AtomicI64>>,
    tasks: Gauge<i64, AtomicI64>,
    connected: Gauge<i64, AtomicI64>,
    sessions: Counter<u64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("taskmint_agent"),
            denials: Family::default(),
            minted: Family::default(),
            begun: Family::default(),
            connections: Family::default(),
            tasks: Gauge::default(),
            connected: Gauge::default(),
            sessions: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "denials",
            "Denials that the agent gave",
            metrics.denials.clone(),
        );
        registry.register(
            "svids_minted",
            "SVIDs that the server minted",
            metrics.minted.clone(),
        );
        registry.register(
            "tasks_begun",
            "Tasks that began here",
            metrics.begun.clone(),
        );
        registry.register(
            "connections",
            "Open connections",
            metrics.connections.clone(),
        );
        registry.register("tasks", "Tasks that this node holds", metrics.tasks.clone());
        let help = "1 while a session with the server is open";
        registry.register("server_connected", help, metrics.connected.clone());
        registry.register(
            "sessions",
            "Sessions opened with the server",
            metrics.sessions.clone(),
        );
        metrics
    }

    pub(crate) fn denied(&self, reason: &'static str) {
        self.denials.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn minted(&self, kind: &'static str, count: u64) {
        self.minted.get_or_create(&[("kind", kind)]).inc_by(count);
    }

    pub(crate) fn begun(&self, kind: &'static str) {
        self.begun.get_or_create(&[("kind", kind)]).inc();
    }

    pub(crate) fn connection(&self, socket: &'static str, by: i64) {
        self.connections
            .get_or_create(&[("socket", socket)])
            .inc_by(by);
    }

    pub(crate) fn connected(&self, connected: bool) {
        self.connected.set(connected.into());
        if connected {
            self.sessions.inc();
        }
    }

    /// Everything, as OpenMetrics text.
    pub(crate) fn render(&self, tasks: usize) -> String {
        self.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(%error, "metrics can't be written");
                String::new()
            }
        }
    }
}
