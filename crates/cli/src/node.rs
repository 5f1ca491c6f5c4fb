//! Nodes.

use clap::Subcommand;
use taskmint_wire::admin;

use crate::context::{Context, spiffe_id};
use crate::exit::Failure;
use crate::output::{Column, Field, Record};

/// `taskmint node`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List nodes.
    List,
    /// Show one node.
    Show {
        /// Its SPIFFE ID, or the path alone.
        node: String,
    },
    /// End a node's tasks; it may attest anew.
    Evict(Ending),
    /// End a node's tasks and keep it out.
    Ban(Ending),
    /// Let a banned node back in.
    Unban {
        /// Its SPIFFE ID, or the path alone.
        node: String,
    },
}

/// Which node, and why.
#[derive(Debug, clap::Args)]
pub struct Ending {
    /// Its SPIFFE ID, or the path alone.
    node: String,
    /// Why; for the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

const COLUMNS: &[Column] = &[
    ("NODE", "id"),
    ("STATE", "state"),
    ("CONNECTED", "connected"),
    ("TASKS", "live_tasks"),
    ("SEEN", "seen_at"),
    ("SVID EXPIRES", "svid_expires_at"),
];

impl Command {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut admin = context.admin().await?;
        let changed = match self {
            Self::List => {
                let nodes = admin
                    .list_nodes(admin::ListNodesRequest {})
                    .await?
                    .into_inner()
                    .nodes;
                let records: Vec<_> = nodes.iter().map(record).collect();
                return context.out.list(COLUMNS, &records);
            }
            Self::Show { node } => {
                let id = spiffe_id(&mut admin, node).await?;
                let node = admin
                    .get_node(admin::GetNodeRequest { id })
                    .await?
                    .into_inner();
                return context.out.one(&record(&node));
            }
            Self::Evict(Ending { node, reason }) => {
                let id = spiffe_id(&mut admin, node).await?;
                admin.evict_node(admin::NodeRequest { id, reason }).await?
            }
            Self::Ban(Ending { node, reason }) => {
                let id = spiffe_id(&mut admin, node).await?;
                admin.ban_node(admin::NodeRequest { id, reason }).await?
            }
            Self::Unban { node } => {
                let id = spiffe_id(&mut admin, node).await?;
                admin
                    .unban_node(admin::NodeRequest {
                        id,
                        reason: String::new(),
                    })
                    .await?
            }
        };
        context.out.one(&changed_record(&changed.into_inner()))
    }
}

fn record(node: &admin::Node) -> Record {
    Record::new()
        .text("id", &node.id)
        .text("attestor", &node.attestor)
        .list("selectors", &node.selectors)
        .text("state", &node.state)
        .flag("connected", node.connected)
        .number("live_tasks", node.live_tasks)
        .text("task_id", &node.task_id)
        .text("serial", &node.serial)
        .instant("svid_expires_at", node.svid_expires_at_ms)
        .instant("attested_at", node.attested_at_ms)
        .instant("seen_at", node.seen_at_ms)
}

fn changed_record(changed: &admin::NodeResponse) -> Record {
    Record::new()
        .with("node", Field::Record(changed.node.as_ref().map(record)))
        .number("tasks_ended", changed.tasks_ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Captured, Format};

    #[test]
    fn nodes_have_their_shapes() {
        let node = admin::Node {
            id: "spiffe://example.org/taskmint/node/join_token/a".to_owned(),
            attestor: "join_token".to_owned(),
            state: "active".to_owned(),
            connected: true,
            live_tasks: 2,
            ..Default::default()
        };
        let captured = Captured::default();
        captured
            .output(Format::Table)
            .list(COLUMNS, &[record(&node)])
            .unwrap();
        let text = captured.text();
        let row = text
            .lines()
            .nth(1)
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>();
        assert_eq!(row, [node.id.as_str(), "active", "yes", "2", "-", "-"]);
        let changed = admin::NodeResponse {
            node: Some(node),
            tasks_ended: 2,
        };
        let json = changed_record(&changed).json();
        assert_eq!(json["node"]["attestor"], "join_token");
        assert_eq!(json["tasks_ended"], 2);
        assert!(json["node"]["seen_at_ms"].is_null());
    }
}
