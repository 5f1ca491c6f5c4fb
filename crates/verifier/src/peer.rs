//! What an X.509-SVID says, by X509-SVID.md sections 2 to 5 (checklist X509-25 to X509-28).

use std::fmt;

use rustls_pki_types::CertificateDer;
use taskmint_id::{SpiffeId, SpiffeIdError, TrustDomain};
use taskmint_model::{TaskId, Timestamp};
use taskmint_status::extension::{BindingError, TASK_BINDING_OID_DER};
use taskmint_status::{Place, Serial, TaskBinding};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Whom an X.509-SVID names.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerSvid {
    /// The one URI name.
    pub spiffe_id: SpiffeId,
    /// The serial number, most significant octet first; zeros if it has not twenty octets, as no
    /// issuer of ours makes them.
    pub serial: [u8; 20],
    /// Task and status place. Only the issuer's own bundle makes it trustworthy: in a certificate
    /// of another trust domain it speaks of that trust domain's log.
    pub binding: Option<TaskBinding>,
    /// The last second in which it is valid.
    pub not_after: Timestamp,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
}

/// Why a chain is no X.509-SVID that counts here and now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// There is no certificate at all.
    #[error("no certificate was presented")]
    NoCertificate,
    /// More certificates than a path may have.
    #[error("{0} certificates were presented, more than a path may have")]
    TooManyCertificates(usize),
    /// Not one well-formed X.509 certificate.
    #[error("certificate is malformed")]
    Malformed,
    /// No URI name.
    #[error("certificate names no spiffe id")]
    NoUri,
    /// Several URI names: which one is meant can't be known.
    #[error("certificate has {0} uri names, not one")]
    SeveralUris(usize),
    /// The URI name is no SPIFFE id.
    #[error("certificate's uri name is not a spiffe id")]
    Id(#[source] SpiffeIdError),
    /// The SPIFFE id has no path: it names a trust domain, not a workload.
    #[error("certificate names a trust domain, not a workload")]
    Root,
    /// The CA bit is set.
    #[error("certificate is a ca's")]
    Ca,
    /// `keyCertSign` is set.
    #[error("certificate may sign certificates")]
    CertSign,
    /// `cRLSign` is set.
    #[error("certificate may sign revocation lists")]
    CrlSign,
    /// The task extension is malformed, or names another place than the serial.
    #[error("certificate's task binding does not count")]
    Binding(#[from] BindingError),
    /// There is no bundle for the trust domain.
    #[error("trust domain `{0}` is not trusted")]
    UnknownTrustDomain(TrustDomain),
    /// Past its last second, or an authority above it is.
    #[error("certificate has expired")]
    Expired,
    /// Before its first second, or an authority above it is.
    #[error("certificate is not valid yet")]
    NotYetValid,
    /// No path to an authority of its own trust domain (RFC 5280 section 6).
    #[error("certificate is not vouched for by its trust domain")]
    Path(#[source] webpki::Error),
}

impl PeerSvid {
    /// Where its task's status is kept.
    pub fn place(&self) -> Option<Place> {
        Some(self.binding?.place)
    }

    /// Its task.
    pub fn task(&self) -> Option<TaskId> {
        Some(TaskId::from_octets(self.binding?.task))
    }
}

impl fmt::Debug for PeerSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSvid")
            .field("spiffe_id", &self.spiffe_id.as_str())
            .field("task", &self.task())
            .field("place", &self.place().map(|place| place.to_string()))
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl SvidError {
    /// A stable name, for callers, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "SVID_MISSING",
            Self::TooManyCertificates(_) => "SVID_CHAIN_TOO_LONG",
            Self::Malformed => "SVID_MALFORMED",
            Self::NoUri => "SVID_WITHOUT_ID",
            Self::SeveralUris(_) => "SVID_WITH_SEVERAL_IDS",
            Self::Id(_) | Self::Root => "SVID_ID_INVALID",
            Self::Ca | Self::CertSign | Self::CrlSign => "SVID_IS_AUTHORITY",
            Self::Binding(_) => "SVID_BINDING_INVALID",
            Self::UnknownTrustDomain(_) => "TRUST_DOMAIN_UNKNOWN",
            Self::Expired => "SVID_EXPIRED",
            Self::NotYetValid => "SVID_NOT_YET_VALID",
            Self::Path(_) => "SVID_UNTRUSTED",
        }
    }
}

/// Reads a leaf by all rules that need no bundle and no clock.
pub(crate) fn read(leaf: &CertificateDer<'_>) -> Result<PeerSvid, SvidError> {
    let certificate = parse(leaf)?;
    check_no_authority(&certificate)?;
    let spiffe_id = spiffe_id(&certificate)?;
    let octets = certificate.raw_serial();
    Ok(PeerSvid {
        spiffe_id,
        serial: octets.try_into().unwrap_or([0; 20]),
        binding: binding(&certificate, octets)?,
        not_after: not_after(&certificate),
        spki: certificate.public_key().raw.to_vec(),
    })
}

/// One certificate with nothing after it, whose extensions are all legible and none twice.
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, SvidError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| SvidError::Malformed)?;
    // An extension that reads as absent because it can't be read would be a way round its rule.
    let illegible = certificate
        .iter_extensions()
        .any(|ext| matches!(ext.parsed_extension(), ParsedExtension::ParseError { .. }));
    if !rest.is_empty() || illegible || certificate.extensions_map().is_err() {
        return Err(SvidError::Malformed);
    }
    Ok(certificate)
}

pub(crate) fn not_after(certificate: &X509Certificate<'_>) -> Timestamp {
    let second = certificate.validity().not_after.timestamp();
    Timestamp::from_secs(u64::try_from(second).unwrap_or(0))
}

/// The CA bit and the two usages that only CAs may have (X509-26).
pub(crate) fn check_no_authority(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| SvidError::Malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(SvidError::Ca);
    }
    match certificate.key_usage().map_err(|_| SvidError::Malformed)? {
        Some(usage) if usage.value.key_cert_sign() => Err(SvidError::CertSign),
        Some(usage) if usage.value.crl_sign() => Err(SvidError::CrlSign),
        _ => Ok(()),
    }
}

/// The URI names of a certificate.
pub(crate) fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, SvidError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| SvidError::Malformed)?;
    let names = names
        .map(|names| names.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(SvidError::Malformed),
            _ => {}
        }
    }
    Ok(uris)
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let uris = uris(certificate)?;
    let uri = match uris.as_slice() {
        [] => return Err(SvidError::NoUri),
        [uri] => uri,
        more => return Err(SvidError::SeveralUris(more.len())),
    };
    let id = SpiffeId::parse(uri).map_err(SvidError::Id)?;
    if id.is_root() {
        Err(SvidError::Root)
    } else {
        Ok(id)
    }
}

/// The task extension, if there is one, held against the serial (P13).
fn binding(
    certificate: &X509Certificate<'_>,
    serial: &[u8],
) -> Result<Option<TaskBinding>, SvidError> {
    let mut found = certificate
        .iter_extensions()
        .filter(|extension| extension.oid.as_bytes() == TASK_BINDING_OID_DER);
    let Some(extension) = found.next() else {
        return Ok(None);
    };
    let binding = TaskBinding::from_der(extension.value)?;
    let serial = Serial::decode(serial).map_err(|_| BindingError::Disagreement)?;
    binding.agree_with(&serial)?;
    Ok(Some(binding))
}
