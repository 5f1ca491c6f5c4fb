//! Bars (P3): an implicit task that was ended does not come back for the process that had it.

use clap::Subcommand;
use taskmint_wire::admin;

use crate::context::{Context, spiffe_id};
use crate::exit::Failure;
use crate::output::{Column, Record};

/// `taskmint bar`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List bars.
    List {
        /// Only of this node: its SPIFFE ID, or the path alone.
        #[arg(long)]
        node: Option<String>,
    },
    /// Lift a bar: the process may have an implicit task again.
    Lift {
        /// The entry.
        entry: String,
        /// The node: its SPIFFE ID, or the path alone.
        node: String,
        /// The process, as `list` shows it.
        process: String,
    },
}

const COLUMNS: &[Column] = &[
    ("ENTRY", "entry_id"),
    ("NODE", "node_id"),
    ("PROCESS", "process"),
    ("TASK", "task_id"),
    ("SINCE", "at"),
];

impl Command {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut admin = context.admin().await?;
        match self {
            Self::List { node } => {
                let node_id = match node {
                    Some(node) => spiffe_id(&mut admin, node).await?,
                    None => String::new(),
                };
                let bars = admin
                    .list_bars(admin::ListBarsRequest { node_id })
                    .await?
                    .into_inner();
                let records: Vec<_> = bars.bars.iter().map(record).collect();
                context.out.list(COLUMNS, &records)
            }
            Self::Lift {
                entry,
                node,
                process,
            } => {
                let node_id = spiffe_id(&mut admin, node).await?;
                let bar = admin::Bar {
                    entry_id: entry,
                    node_id,
                    process,
                    ..Default::default()
                };
                let request = admin::LiftBarRequest {
                    entry_id: bar.entry_id.clone(),
                    node_id: bar.node_id.clone(),
                    process: bar.process.clone(),
                };
                admin.lift_bar(request).await?;
                let lifted = Record::new()
                    .text("entry_id", bar.entry_id)
                    .text("node_id", bar.node_id)
                    .text("process", bar.process);
                context.out.one(&lifted)
            }
        }
    }
}

fn record(bar: &admin::Bar) -> Record {
    Record::new()
        .text("entry_id", &bar.entry_id)
        .text("node_id", &bar.node_id)
        .text("process", &bar.process)
        .text("task_id", &bar.task_id)
        .instant("at", bar.at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_its_shape() {
        let bar = admin::Bar {
            entry_id: "e".to_owned(),
            at_ms: 1_000,
            ..Default::default()
        };
        let expected = serde_json::json!({
            "entry_id": "e", "node_id": null, "process": null, "task_id": null,
            "at": "1970-01-01T00:00:01Z", "at_ms": 1000,
        });
        assert_eq!(record(&bar).json(), expected);
    }
}
