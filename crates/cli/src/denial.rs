//! Denials, told to operators.

use clap::Args;
use taskmint_wire::admin;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Column, Record};

/// `taskmint explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// The id that the denied caller was given.
    denial: String,
}

/// `taskmint denials`.
#[derive(Args, Debug)]
pub struct Denials {
    /// How many at most.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

const COLUMNS: &[Column] = &[
    ("ID", "id"),
    ("AT", "at"),
    ("WHO", "who"),
    ("ACTION", "action"),
    ("REASON", "reason"),
    ("MESSAGE", "message"),
];

impl Explain {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let request = admin::ExplainRequest {
            denial_id: self.denial,
        };
        let denial = context.admin().await?.explain(request).await?.into_inner();
        context.out.one(&record(&denial))
    }
}

impl Denials {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let request = admin::ListDenialsRequest {
            page_size: self.limit,
        };
        let listed = context
            .admin()
            .await?
            .list_denials(request)
            .await?
            .into_inner();
        let records: Vec<_> = listed.denials.iter().map(record).collect();
        context.out.list(COLUMNS, &records)
    }
}

fn record(denial: &admin::Denial) -> Record {
    Record::new()
        .text("id", &denial.id)
        .instant("at", denial.at_ms)
        .text("node_id", &denial.node_id)
        .text("who", &denial.who)
        .text("action", &denial.action)
        .text("reason", &denial.reason)
        .text("message", &denial.message)
        .text("fix", &denial.fix)
        .lines("selectors", &denial.selectors)
        .lines("detail", &denial.detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_has_its_shape() {
        let denial = admin::Denial {
            id: "d".to_owned(),
            reason: "NO_MATCHING_ENTRY".to_owned(),
            selectors: vec!["unix:uid:0".to_owned()],
            detail: vec!["entry e lacks unix:uid:1".to_owned()],
            ..Default::default()
        };
        let json = record(&denial).json();
        assert_eq!(json["reason"], "NO_MATCHING_ENTRY");
        assert_eq!(json["selectors"][0], "unix:uid:0");
        assert_eq!(json["detail"][0], "entry e lacks unix:uid:1");
    }
}
