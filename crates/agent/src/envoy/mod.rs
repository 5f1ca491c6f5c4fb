//! What Envoy asks of an agent: certificates and trust by its secret discovery service, and whether
//! a peer's task still is by its external authorization.

mod authz;
mod pem;
mod sds;

pub(crate) use authz::Authorization;
pub(crate) use sds::Secrets;
