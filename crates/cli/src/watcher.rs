//! Who follows the revocation log.

use clap::Args;
use taskmint_wire::admin;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Column, Field, Record};

/// `taskmint watchers`.
#[derive(Args, Debug)]
pub struct Watchers {}

const COLUMNS: &[Column] = &[
    ("SPIFFE ID", "spiffe_id"),
    ("NAME", "name"),
    ("ACKNOWLEDGED", "acknowledged"),
    ("LAG", "lag"),
    ("AT", "acknowledged_at"),
    ("CONNECTED", "connected_at"),
    ("WAITED FOR", "waited_for"),
    ("RELAY", "relay"),
];

impl Watchers {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut admin = context.admin().await?;
        let listed = admin
            .list_watchers(admin::ListWatchersRequest {})
            .await?
            .into_inner();
        let watchers: Vec<_> = listed.watchers.iter().map(record).collect();
        if !context.out.is_json() {
            context.out.list(COLUMNS, &watchers)?;
            return context
                .out
                .text(&format!("\nthe log is at {}\n", listed.sequence));
        }
        let all = Record::new()
            .number("sequence", listed.sequence)
            .with("watchers", Field::Records(watchers));
        context.out.one(&all)
    }
}

fn record(watcher: &admin::Watcher) -> Record {
    Record::new()
        .text("spiffe_id", &watcher.spiffe_id)
        .text("name", &watcher.name)
        .number("acknowledged", watcher.acknowledged)
        .number("lag", watcher.lag)
        .instant("acknowledged_at", watcher.acknowledged_at_ms)
        .instant("connected_at", watcher.connected_at_ms)
        .flag("waited_for", watcher.waited_for)
        .text("relay", &watcher.relay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_has_its_shape() {
        let watcher = admin::Watcher {
            acknowledged: 9,
            lag: 3,
            waited_for: true,
            ..Default::default()
        };
        let json = record(&watcher).json();
        assert_eq!(
            (&json["acknowledged"], &json["waited_for"]),
            (&9.into(), &true.into())
        );
        assert_eq!(json["lag"], 3);
        assert!(json["spiffe_id"].is_null() && json["relay"].is_null());
    }
}
