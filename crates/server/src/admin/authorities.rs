//! Keys and the bundle that vouches for them.

use std::sync::Arc;

use taskmint_config::Verb;
use taskmint_issuer::{AuthorityView, Refused};
use taskmint_store::{AuthorityRecord, KeyUse};
use taskmint_wire::{BadField, admin, field};
use tonic::{Code, Request, Response, Status};

use super::{AdminService, convert};
use crate::refusal::{deny, status};

impl AdminService {
    pub(super) async fn get_bundle(
        &self,
        request: Request<admin::GetBundleRequest>,
    ) -> Result<Response<admin::Bundle>, Status> {
        // The bundle is public: whoever may talk to this service at all may have it.
        self.access(&request)?;
        let bundle = self.issuer.bundle().borrow().clone();
        let data = match request.get_ref().format.as_str() {
            "" | "spiffe" => bundle.to_json().into_bytes(),
            "pem" => crate::identity::pem(&bundle)
                .map_err(|error| deny(Code::Internal, "FAULT", error.to_string()))?
                .into_bytes(),
            other => {
                let why = format!("`{other}` is not known: expected spiffe or pem");
                return Err(BadField::new("format", why).into());
            }
        };
        Ok(Response::new(admin::Bundle {
            trust_domain: bundle.trust_domain().to_string(),
            data,
            sequence: bundle.sequence(),
        }))
    }

    pub(super) async fn list_authorities(
        &self,
        request: Request<admin::ListAuthoritiesRequest>,
    ) -> Result<Response<admin::ListAuthoritiesResponse>, Status> {
        self.access(&request)?.check(Verb::Read, None)?;
        let authorities = self.issuer.authorities().await.map_err(status)?;
        let authorities = authorities.iter().map(convert::authority).collect();
        Ok(Response::new(admin::ListAuthoritiesResponse {
            authorities,
        }))
    }

    pub(super) async fn prepare_authority(
        &self,
        request: Request<admin::PrepareAuthorityRequest>,
    ) -> Result<Response<admin::Authority>, Status> {
        let access = self.access(&request)?;
        access.check(Verb::Rotate, None)?;
        let usage = match request.get_ref().r#use.as_str() {
            "ca" => KeyUse::Ca,
            "jwt" => KeyUse::Jwt,
            "log" => KeyUse::Log,
            "grant" => KeyUse::Grant,
            other => {
                let why = format!("`{other}` is not known: expected ca, jwt, log or grant");
                return Err(BadField::new("use", why).into());
            }
        };
        let (issuer, by) = (Arc::clone(&self.issuer), access.principal);
        changed(async move { issuer.prepare_authority(&by, usage).await }).await
    }

    pub(super) async fn activate_authority(
        &self,
        request: Request<admin::AuthorityRequest>,
    ) -> Result<Response<admin::Authority>, Status> {
        let access = self.access(&request)?;
        access.check(Verb::Rotate, None)?;
        let id = field("id", &request.get_ref().id)?;
        let (issuer, by) = (Arc::clone(&self.issuer), access.principal);
        changed(async move { issuer.activate_authority(&by, id).await }).await
    }

    pub(super) async fn retire_authority(
        &self,
        request: Request<admin::AuthorityRequest>,
    ) -> Result<Response<admin::Authority>, Status> {
        let access = self.access(&request)?;
        access.check(Verb::Rotate, None)?;
        let id = field("id", &request.get_ref().id)?;
        let (issuer, by) = (Arc::clone(&self.issuer), access.principal);
        changed(async move { issuer.retire_authority(&by, id).await }).await
    }
}

/// An authority after a change: what it is needed for is a question of the list.
///
/// The change is made to its end, also when whoever asked has gone meanwhile: what the store has and the
/// signer has not would keep the two apart until a restart.
async fn changed<F>(change: F) -> Result<Response<admin::Authority>, Status>
where
    F: Future<Output = Result<AuthorityRecord, Refused>> + Send + 'static,
{
    let made = tokio::spawn(change).await;
    let fault = |_| deny(Code::Internal, "FAULT", "a fault of ours; it is in the log");
    let record = made.map_err(fault)?.map_err(status)?;
    Ok(Response::new(convert::authority(&AuthorityView {
        record,
        needed_until: None,
    })))
}
