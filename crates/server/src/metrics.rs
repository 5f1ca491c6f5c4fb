//! What is measured. Never labelled with a task or a SPIFFE ID: those are without number.

use std::sync::Arc;

use taskmint_fanout::Readings;
use taskmint_issuer::Issuer;
use taskmint_mint::MeterReadings;

/// The text of `/metrics` (OpenMetrics).
pub(crate) fn text(
    issuer: &Arc<Issuer>,
    watching: Readings,
    signing: Option<MeterReadings>,
) -> String {
    let position = *issuer.store().position().borrow();
    let gauges: [(&str, &str, u64); 6] = [
        (
            "taskmint_live_tasks",
            "tasks that have not ended",
            count(issuer.live_tasks()),
        ),
        (
            "taskmint_entries",
            "registration entries",
            count(issuer.all_entries().len()),
        ),
        (
            "taskmint_log_sequence",
            "newest position of the revocation log",
            position.sequence,
        ),
        (
            "taskmint_log_floor_hours",
            "oldest bucket that still counts",
            position.floor.into(),
        ),
        (
            "taskmint_watchers",
            "streams that follow the revocation log",
            count(issuer.watchers().count()),
        ),
        (
            "taskmint_watch_connections",
            "connections to the watch listener",
            watching.connections,
        ),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
        ));
    }
    let signing = signing.as_ref().map(of_signing);
    let contradictions = (
        "taskmint_watch_contradictions",
        "watchers denied because they were shown another history of the log",
        issuer.watchers().contradictions(),
    );
    for (name, help, value) in of_watching(&watching)
        .into_iter()
        .chain([contradictions])
        .chain(signing.into_iter().flatten())
    {
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} counter\n{name}_total {value}\n"
        ));
    }
    text.push_str("# EOF\n");
    text
}

fn of_signing(of: &MeterReadings) -> [(&'static str, &'static str, u64); 4] {
    [
        (
            "taskmint_signer_losses",
            "times that the signer ended, or none could be had",
            of.losses,
        ),
        (
            "taskmint_signer_requests",
            "grants and signatures asked of the signer",
            of.requests,
        ),
        (
            "taskmint_signer_frames",
            "frames that they were asked in",
            of.frames,
        ),
        (
            "taskmint_signer_refused",
            "requests refused because too many waited for the signer",
            of.refused,
        ),
    ]
}

fn of_watching(of: &Readings) -> [(&'static str, &'static str, u64); 7] {
    [
        (
            "taskmint_watch_bytes",
            "bytes sent to watchers, before encryption",
            of.octets,
        ),
        (
            "taskmint_watch_heads",
            "heads sent to watchers, with what they cover",
            of.frames,
        ),
        (
            "taskmint_watch_checkpoints",
            "checkpoints sent to watchers",
            of.checkpoints,
        ),
        (
            "taskmint_watch_refused",
            "connections to the watch listener that found no room",
            of.refused,
        ),
        (
            "taskmint_watch_handshakes_failed",
            "handshakes at the watch listener that failed or took too long",
            of.failed,
        ),
        (
            "taskmint_watch_dropped_slow",
            "watchers dropped because they did not read",
            of.slow,
        ),
        (
            "taskmint_watch_dropped_silent",
            "connections dropped because nobody answered",
            of.silent,
        ),
    ]
}

/// A number of things, as the wire has it.
pub(crate) fn count(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}
