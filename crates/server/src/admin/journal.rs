//! What was refused, and what was done.

use taskmint_config::Verb;
use taskmint_wire::{admin, field};
use tonic::{Code, Request, Response, Status};

use super::{AdminService, convert, page, store};
use crate::refusal::deny;

/// Pages of the audit trail that are looked at for one call.
const LOOKS: usize = 100;

impl AdminService {
    pub(super) async fn explain(
        &self,
        request: Request<admin::ExplainRequest>,
    ) -> Result<Response<admin::Denial>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let id = field("denial_id", &request.get_ref().denial_id)?;
        let denial = self.issuer.store().denial(id).await.map_err(store)?;
        let gone = || {
            deny(
                Code::NotFound,
                "NO_SUCH_DENIAL",
                "no such denial, or it is too old",
            )
        };
        Ok(Response::new((&denial.ok_or_else(gone)?).into()))
    }

    pub(super) async fn list_denials(
        &self,
        request: Request<admin::ListDenialsRequest>,
    ) -> Result<Response<admin::ListDenialsResponse>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let size = page::size(request.get_ref().page_size);
        let denials = self.issuer.store().denials(size).await.map_err(store)?;
        let denials = denials.iter().map(Into::into).collect();
        Ok(Response::new(admin::ListDenialsResponse { denials }))
    }

    pub(super) async fn list_issuances(
        &self,
        request: Request<admin::ListIssuancesRequest>,
    ) -> Result<Response<admin::ListIssuancesResponse>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let ask = request.into_inner();
        let after = page::read_issuance(&ask.page_token)?;
        let size = page::size(ask.page_size);
        let found = self.issuer.store().all_issuances(after, size).await;
        let found = found.map_err(store)?;
        let full = found.len() == size;
        let last = found.last().filter(|_| full);
        let next_page_token = last.map(|(number, one)| page::write_issuance(one.place, *number));
        let issuances = found.iter().map(|(_, one)| convert::issuance(one));
        Ok(Response::new(admin::ListIssuancesResponse {
            issuances: issuances.collect(),
            next_page_token: next_page_token.unwrap_or_default(),
        }))
    }

    pub(super) async fn list_audit(
        &self,
        request: Request<admin::ListAuditRequest>,
    ) -> Result<Response<admin::ListAuditResponse>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let ask = request.into_inner();
        let size = page::size(ask.page_size);
        let (mut from, mut lines) = (ask.from.max(1), Vec::new());
        // What is looked at for one call is bounded, however few lines fit.
        for _ in 0..LOOKS {
            let page = self.issuer.store().audit(from, size).await;
            let mut page = page.map_err(store)?;
            let Some(last) = page.last().map(|line| line.number) else {
                from = 0;
                break;
            };
            from = last + 1;
            page.retain(|line| ask.action.is_empty() || line.audit.action == ask.action);
            lines.extend(page);
            if ask.action.is_empty() || lines.len() >= size {
                break;
            }
        }
        Ok(Response::new(admin::ListAuditResponse {
            lines: lines.into_iter().map(convert::audit_line).collect(),
            next_from: from,
        }))
    }
}
