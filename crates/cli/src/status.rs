//! The server's state.

use clap::Args;
use taskmint_wire::admin;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::Record;

/// `taskmint status`.
#[derive(Args, Debug)]
pub struct Status {}

impl Status {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut admin = context.admin().await?;
        let status = admin
            .get_status(admin::GetStatusRequest {})
            .await?
            .into_inner();
        context.out.one(&record(&status))
    }
}

fn record(status: &admin::Status) -> Record {
    Record::new()
        .text("trust_domain", &status.trust_domain)
        .text("server_id", &status.server_id)
        .text("version", &status.version)
        .octets("log_id", status.log_id.clone())
        .number("generation", status.generation)
        .number("epoch", status.epoch)
        .number("sequence", status.sequence)
        .number("live_tasks", status.live_tasks)
        .number("nodes_connected", status.nodes_connected)
        .number("watchers", status.watchers)
        .instant("started_at", status.started_at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_server_has_its_shape() {
        let status = admin::Status {
            trust_domain: "example.org".to_owned(),
            log_id: vec![1; 8],
            sequence: 7,
            started_at_ms: 1_000,
            ..Default::default()
        };
        let expected = serde_json::json!({
            "trust_domain": "example.org", "server_id": null, "version": null,
            "log_id": "0101010101010101", "generation": 0, "epoch": 0, "sequence": 7,
            "live_tasks": 0, "nodes_connected": 0, "watchers": 0,
            "started_at": "1970-01-01T00:00:01Z", "started_at_ms": 1000,
        });
        assert_eq!(record(&status).json(), expected);
    }
}
