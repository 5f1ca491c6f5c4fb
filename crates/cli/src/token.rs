//! Join tokens.

use std::time::Duration;

use clap::Subcommand;
use taskmint_model::millis;
use taskmint_wire::admin;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Column, Record, note, parse_duration};

/// `taskmint token`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token and print the join string, once: whoever has it can join.
    Create {
        /// Last segment of the node's SPIFFE ID; left out, it is made up.
        #[arg(long, default_value = "", hide_default_value = true)]
        node: String,
        /// How long it can be used; left out, the server's default.
        #[arg(long, value_parser = parse_duration)]
        ttl: Option<Duration>,
        /// What the node is attested to be by it; may be repeated.
        #[arg(long = "selector", value_name = "TYPE:VALUE")]
        selectors: Vec<String>,
    },
    /// List tokens.
    List,
    /// Delete a token that nobody used yet.
    Delete {
        /// The id that `list` shows.
        id: String,
    },
}

const COLUMNS: &[Column] = &[
    ("ID", "id"),
    ("NODE", "node"),
    ("CONSUMED", "consumed"),
    ("EXPIRES", "expires_at"),
    ("CREATED BY", "created_by"),
    ("SELECTORS", "selectors"),
];

impl Command {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut admin = context.admin().await?;
        match self {
            Self::Create {
                node,
                ttl,
                selectors,
            } => {
                let ttl_ms = ttl.map_or(0, millis);
                let request = admin::CreateTokenRequest {
                    node,
                    ttl_ms,
                    selectors,
                };
                let made = admin.create_token(request).await?.into_inner();
                if context.out.is_json() {
                    return context.out.one(&created(&made));
                }
                let until = created(&made);
                let until = until.get("expires_at").map(crate::output::Field::show);
                note(format_args!(
                    "for node {}, until {}",
                    made.node_id,
                    until.unwrap_or_default()
                ));
                context.out.text(&format!("{}\n", made.join_string))
            }
            Self::List => {
                let tokens = admin
                    .list_tokens(admin::ListTokensRequest {})
                    .await?
                    .into_inner();
                let records: Vec<_> = tokens.tokens.iter().map(record).collect();
                context.out.list(COLUMNS, &records)
            }
            Self::Delete { id } => {
                admin
                    .delete_token(admin::DeleteTokenRequest { id: id.clone() })
                    .await?;
                context.out.one(&Record::new().text("deleted", id))
            }
        }
    }
}

fn created(made: &admin::CreateTokenResponse) -> Record {
    Record::new()
        .text("join_string", &made.join_string)
        .text("node_id", &made.node_id)
        .instant("expires_at", made.expires_at_ms)
}

fn record(token: &admin::Token) -> Record {
    Record::new()
        .text("id", &token.id)
        .text("node", &token.node)
        .list("selectors", &token.selectors)
        .instant("expires_at", token.expires_at_ms)
        .flag("consumed", token.consumed)
        .text("created_by", &token.created_by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_their_shapes() {
        let made = admin::CreateTokenResponse {
            join_string: "taskmint-join-v1:x".to_owned(),
            node_id: "spiffe://example.org/taskmint/node/join_token/a".to_owned(),
            expires_at_ms: 5,
        };
        assert_eq!(created(&made).json()["join_string"], "taskmint-join-v1:x");
        let token = admin::Token {
            id: "ab".to_owned(),
            consumed: true,
            ..Default::default()
        };
        let expected = serde_json::json!({
            "id": "ab", "node": null, "selectors": [], "expires_at": null, "expires_at_ms": null,
            "consumed": true, "created_by": null,
        });
        assert_eq!(record(&token).json(), expected);
    }
}
