//! The SPIFFE Workload API, as a client sees it (SPIFFE_Workload_API.md).

use std::fmt;

use futures::{Stream, StreamExt as _};
use rustls_pki_types::CertificateDer;
use taskmint_id::{Bundle, BundleSet, SpiffeId, TrustDomain, X509Authority};
use taskmint_wire::workload as wire;
use taskmint_wire::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::{CallError, ConnectError, Endpoint};

/// The most that one response may hold.
const MAX_RESPONSE: usize = 16 << 20;

/// Adds `workload.spiffe.io: true` to each call (WEP-06): a request forged by way of a web page
/// can't have it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SecurityHeader;

/// The Workload API, seen by a workload.
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    client: SpiffeWorkloadApiClient<InterceptedService<Channel, SecurityHeader>>,
}

/// All X.509-SVIDs of the caller, and what it may verify others with.
#[derive(Clone, Debug)]
pub struct X509Context {
    /// At least one; the first is the default identity.
    pub svids: Vec<X509Svid>,
    /// X.509 authorities: own trust domains and federated ones.
    pub bundles: BundleSet,
    /// Revocation lists, DER.
    pub crls: Vec<Vec<u8>>,
}

/// A certificate chain and its key.
#[derive(Clone)]
pub struct X509Svid {
    /// Whose.
    pub spiffe_id: SpiffeId,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Unencrypted PKCS#8, DER; wiped on drop.
    pub key: Zeroizing<Vec<u8>>,
    /// What tells apart several identities; empty if nothing does.
    pub hint: String,
}

/// A token.
#[derive(Clone)]
pub struct JwtSvid {
    /// Whose.
    pub spiffe_id: SpiffeId,
    /// Compact JWS.
    pub token: String,
    /// What tells apart several identities; empty if nothing does.
    pub hint: String,
}

impl Interceptor for SecurityHeader {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = AsciiMetadataValue::from_static("true");
        request.metadata_mut().insert("workload.spiffe.io", value);
        Ok(request)
    }
}

impl WorkloadApi {
    /// Connects to a Workload API.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, ConnectError> {
        Ok(Self::new(crate::connect(endpoint).await?))
    }

    /// Over a channel that is there already.
    pub fn new(channel: Channel) -> Self {
        let client = SpiffeWorkloadApiClient::with_interceptor(channel, SecurityHeader)
            .max_decoding_message_size(MAX_RESPONSE);
        Self { client }
    }

    /// X.509-SVIDs and bundles: now, and again on each change. The stream ends with
    /// `PermissionDenied` when the caller has no identity any more.
    ///
    /// # Errors
    /// [`CallError`], here and in the stream.
    pub async fn x509_contexts(
        &self,
    ) -> Result<impl Stream<Item = Result<X509Context, CallError>> + Send + Unpin + use<>, CallError>
    {
        let stream = self
            .client
            .clone()
            .fetch_x509svid(wire::X509svidRequest {})
            .await?;
        Ok(stream.into_inner().map(|response| context(response?)))
    }

    /// The first of [`x509_contexts`](Self::x509_contexts).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn x509_context(&self) -> Result<X509Context, CallError> {
        first(self.x509_contexts().await?).await
    }

    /// X.509 authorities by trust domain: now, and again on each change.
    ///
    /// # Errors
    /// [`CallError`], here and in the stream.
    pub async fn x509_bundles(
        &self,
    ) -> Result<impl Stream<Item = Result<BundleSet, CallError>> + Send + Unpin + use<>, CallError>
    {
        let stream = self
            .client
            .clone()
            .fetch_x509_bundles(wire::X509BundlesRequest {})
            .await?;
        Ok(stream.into_inner().map(|response| {
            let named = response?.bundles;
            named
                .iter()
                .map(|(name, der)| x509_bundle(&trust_domain(name)?, der))
                .collect()
        }))
    }

    /// JWT keys by trust domain: now, and again on each change.
    ///
    /// # Errors
    /// [`CallError`], here and in the stream.
    pub async fn jwt_bundles(
        &self,
    ) -> Result<impl Stream<Item = Result<BundleSet, CallError>> + Send + Unpin + use<>, CallError>
    {
        let stream = self
            .client
            .clone()
            .fetch_jwt_bundles(wire::JwtBundlesRequest {})
            .await?;
        Ok(stream.into_inner().map(|response| {
            let named = response?.bundles;
            named
                .iter()
                .map(|(name, json)| jwt_bundle(trust_domain(name)?, json))
                .collect()
        }))
    }

    /// The first of [`jwt_bundles`](Self::jwt_bundles).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn first_jwt_bundles(&self) -> Result<BundleSet, CallError> {
        first(self.jwt_bundles().await?).await
    }

    /// Tokens for these audiences: of one identity, or of all that the caller has.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn jwt_svids(
        &self,
        audience: &[String],
        spiffe_id: Option<&SpiffeId>,
    ) -> Result<Vec<JwtSvid>, CallError> {
        let request = wire::JwtsvidRequest {
            audience: audience.to_vec(),
            spiffe_id: spiffe_id.map(ToString::to_string).unwrap_or_default(),
        };
        let response = self
            .client
            .clone()
            .fetch_jwtsvid(request)
            .await?
            .into_inner();
        response.svids.into_iter().map(jwt_svid).collect()
    }

    /// Has the agent validate a token for `audience`; it honours the revocation log.
    ///
    /// # Errors
    /// [`CallError`]; `InvalidArgument` for a token that does not count.
    pub async fn validate_jwt(&self, audience: &str, token: &str) -> Result<SpiffeId, CallError> {
        let request = wire::ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: token.to_owned(),
        };
        let response = self.client.clone().validate_jwtsvid(request).await?;
        spiffe_id(&response.into_inner().spiffe_id)
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "X509Svid({})", self.spiffe_id)
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtSvid({})", self.spiffe_id)
    }
}

/// What a stream says first.
async fn first<T>(
    mut stream: impl Stream<Item = Result<T, CallError>> + Unpin,
) -> Result<T, CallError> {
    let none = || malformed("the stream ended without a response");
    stream.next().await.ok_or_else(none)?
}

fn context(response: wire::X509svidResponse) -> Result<X509Context, CallError> {
    let mut bundles = BundleSet::new();
    for (name, der) in &response.federated_bundles {
        bundles.insert(x509_bundle(&trust_domain(name)?, der)?);
    }
    let mut svids = Vec::with_capacity(response.svids.len());
    for svid in response.svids {
        let key = Zeroizing::new(svid.x509_svid_key);
        let spiffe_id = spiffe_id(&svid.spiffe_id)?;
        bundles.insert(x509_bundle(spiffe_id.trust_domain(), &svid.bundle)?);
        let chain = certificates(&svid.x509_svid)?;
        svids.push(X509Svid {
            spiffe_id,
            chain,
            key,
            hint: svid.hint,
        });
    }
    if svids.is_empty() {
        return Err(malformed("a response has no svid"));
    }
    Ok(X509Context {
        svids,
        bundles,
        crls: response.crl,
    })
}

fn jwt_svid(svid: wire::Jwtsvid) -> Result<JwtSvid, CallError> {
    let spiffe_id = spiffe_id(&svid.spiffe_id)?;
    Ok(JwtSvid {
        spiffe_id,
        token: svid.svid,
        hint: svid.hint,
    })
}

fn spiffe_id(text: &str) -> Result<SpiffeId, CallError> {
    SpiffeId::parse(text).map_err(|error| malformed(error.to_string()))
}

/// The standard names bundles by SPIFFE id; some agents leave the scheme out.
fn trust_domain(name: &str) -> Result<TrustDomain, CallError> {
    let bare = name.strip_prefix("spiffe://").unwrap_or(name);
    TrustDomain::parse(bare).map_err(|error| malformed(error.to_string()))
}

fn x509_bundle(trust_domain: &TrustDomain, der: &[u8]) -> Result<Bundle, CallError> {
    let mut bundle = Bundle::new(trust_domain.clone());
    for certificate in certificates(der)? {
        let authority = X509Authority::from_der(&certificate);
        bundle.add_x509_authority(authority.map_err(|error| malformed(error.to_string()))?);
    }
    Ok(bundle)
}

fn jwt_bundle(trust_domain: TrustDomain, json: &[u8]) -> Result<Bundle, CallError> {
    Bundle::parse(trust_domain, json).map_err(|error| malformed(error.to_string()))
}

/// Certificates back to back, as the Workload API carries chains and bundles.
fn certificates(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, CallError> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, _) =
            X509Certificate::from_der(der).map_err(|_| malformed("a certificate is malformed"))?;
        let (this, _) = der.split_at(der.len() - rest.len());
        certificates.push(CertificateDer::from(this.to_vec()));
        der = rest;
    }
    Ok(certificates)
}

fn malformed(what: impl Into<String>) -> CallError {
    CallError {
        code: Code::Internal,
        reason: None,
        message: format!("the agent's answer makes no sense: {}", what.into()),
        fix: None,
        denial: None,
        facts: None,
        retry_after: None,
    }
}

#[cfg(test)]
mod tests;
