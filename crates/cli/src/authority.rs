//! Authority keys and their rotation.

mod audit;
mod journal;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use taskmint_wire::admin;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Column, Record};

/// `taskmint authority`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List authority keys.
    List,
    /// Make a key and publish it, without using it yet.
    Prepare {
        /// What it will sign.
        #[arg(value_enum)]
        r#use: Use,
    },
    /// Use a prepared key from now on.
    Activate {
        /// Which one.
        id: String,
    },
    /// Never use a key again. It stays in the bundle as long as something that it signed lives.
    Retire {
        /// Which one.
        id: String,
    },
    /// Compare the signer's journal with the server's records: what was signed without a record,
    /// gaps, and a journal that was set back.
    Audit {
        /// The journal: `signer-journal` in the server's `data_dir`, or
        /// /var/lib/taskmint-signer/journal. Read on this host. Where it was rotated, all of it:
        /// once for each file, oldest first.
        #[arg(long, value_name = "FILE", required = true)]
        journal: Vec<PathBuf>,
    },
}

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Use {
    /// X.509-SVIDs.
    Ca,
    /// JWT-SVIDs.
    Jwt,
    /// Heads and checkpoints of the revocation log.
    Log,
    /// Grants, which tie a task's facts to it.
    Grant,
}

const COLUMNS: &[Column] = &[
    ("ID", "id"),
    ("USE", "use"),
    ("STATE", "state"),
    ("KEY", "key_id"),
    ("CREATED", "created_at"),
    ("EXPIRES", "expires_at"),
    ("NEEDED UNTIL", "needed_until"),
];

impl Command {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut admin = context.admin().await?;
        let changed = match self {
            Self::List => {
                let request = admin::ListAuthoritiesRequest {};
                let listed = admin.list_authorities(request).await?.into_inner();
                let records: Vec<_> = listed.authorities.iter().map(record).collect();
                return context.out.list(COLUMNS, &records);
            }
            Self::Audit { journal } => return audit::run(&mut admin, &journal, context).await,
            Self::Prepare { r#use } => {
                let value = r#use.to_possible_value();
                let r#use = value
                    .map(|value| value.get_name().to_owned())
                    .unwrap_or_default();
                admin
                    .prepare_authority(admin::PrepareAuthorityRequest { r#use })
                    .await?
            }
            Self::Activate { id } => {
                admin
                    .activate_authority(admin::AuthorityRequest { id })
                    .await?
            }
            Self::Retire { id } => {
                admin
                    .retire_authority(admin::AuthorityRequest { id })
                    .await?
            }
        };
        context.out.one(&record(&changed.into_inner()))
    }
}

fn record(authority: &admin::Authority) -> Record {
    Record::new()
        .text("id", &authority.id)
        .text("use", &authority.r#use)
        .text("state", &authority.state)
        .text("key_id", &authority.key_id)
        .instant("created_at", authority.created_at_ms)
        .instant("activated_at", authority.activated_at_ms)
        .instant("retired_at", authority.retired_at_ms)
        .instant("expires_at", authority.expires_at_ms)
        .instant("needed_until", authority.needed_until_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_has_its_shape() {
        let authority = admin::Authority {
            id: "a".to_owned(),
            r#use: "ca".to_owned(),
            state: "active".to_owned(),
            ..Default::default()
        };
        let json = record(&authority).json();
        assert_eq!(
            (&json["use"], &json["state"]),
            (&"ca".into(), &"active".into())
        );
        assert!(json["needed_until_ms"].is_null());
    }
}
