//! What is measured. Never labelled with a task or a SPIFFE ID: those are without number.

use std::sync::Arc;

use taskmint_issuer::Issuer;

/// The text of `/metrics` (OpenMetrics).
pub(crate) fn text(issuer: &Arc<Issuer>) -> String {
    let position = *issuer.store().position().borrow();
    let gauges: [(&str, &str, u64); 5] = [
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
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
        ));
    }
    text.push_str("# EOF\n");
    text
}

/// A number of things, as the wire has it.
pub(crate) fn count(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}
