//! X.509 certificates: X509-SVID.md for CAs and leaves, P13 for serial and task extension, P15 for
//! the log's key.
//!
//! Everything that a request can influence is an argument of [`leaf`]; whatever else stands in a
//! certificate stands here. There is no argument for a CA bit, a key usage or an issuer.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use ring::digest::{SHA256, digest};
use taskmint_id::{P256PublicKey, TrustDomain};
use taskmint_mint::Refusal;
use taskmint_model::{AuthorityId, Timestamp};
use taskmint_status::TaskBinding;
use taskmint_status::extension::{HEAD_SIGNING_OID, TASK_BINDING_OID};
use time::OffsetDateTime;

use crate::signer::Signer;

/// What tells a CA's own serial, and a log key's, from those of leaves, which begin with 1.
const CA_SERIAL: u8 = 2;
const LOG_KEY_SERIAL: u8 = 3;

/// First and last second of a certificate.
pub(crate) type Validity = (Timestamp, Timestamp);

/// What a request says about a leaf.
pub(crate) struct Leaf<'a> {
    pub(crate) spiffe_id: &'a str,
    pub(crate) dns_names: &'a [String],
    pub(crate) key: P256PublicKey,
    pub(crate) serial: [u8; 20],
    pub(crate) binding: TaskBinding,
    pub(crate) validity: Validity,
}

/// What signs as a CA.
pub(crate) struct CaSigner {
    issuer: Issuer<'static, Signer>,
}

/// The subject key id: RFC 7093 section 2, method 1.
pub(crate) fn key_id(key: &P256PublicKey) -> [u8; 20] {
    let mut id = [0; 20];
    let hash = digest(&SHA256, &key.to_sec1());
    id.iter_mut()
        .zip(hash.as_ref())
        .for_each(|(to, from)| *to = *from);
    id
}

/// A CA's serial number.
pub(crate) fn ca_serial(id: AuthorityId) -> [u8; 17] {
    prefixed(CA_SERIAL, id.octets())
}

/// A log key certificate's serial number.
pub(crate) fn log_key_serial(random: [u8; 16]) -> [u8; 17] {
    prefixed(LOG_KEY_SERIAL, random)
}

fn prefixed(first: u8, rest: [u8; 16]) -> [u8; 17] {
    let mut serial = [first; 17];
    serial
        .iter_mut()
        .skip(1)
        .zip(rest)
        .for_each(|(to, from)| *to = from);
    serial
}

impl CaSigner {
    /// Names the CA by its key alone, so that a restart needs no certificate to sign on.
    pub(crate) fn new(trust_domain: &TrustDomain, signer: Signer) -> Result<Self, Refusal> {
        let params = ca_params(trust_domain, signer.public())?;
        Ok(Self {
            issuer: Issuer::new(params, signer),
        })
    }

    pub(crate) fn public(&self) -> &P256PublicKey {
        self.issuer.key().public()
    }

    /// Its self-signed certificate, the anchor.
    pub(crate) fn anchor(
        &self,
        trust_domain: &TrustDomain,
        serial: &[u8; 17],
        validity: Validity,
    ) -> Result<Vec<u8>, Refusal> {
        let mut params = ca_params(trust_domain, self.public())?;
        params.serial_number = Some(SerialNumber::from_slice(serial));
        set_validity(&mut params, validity)?;
        let certificate = params.self_signed(self.issuer.key()).map_err(failed)?;
        Ok(certificate.der().to_vec())
    }

    /// A certificate of a task.
    pub(crate) fn leaf(&self, leaf: &Leaf<'_>) -> Result<Vec<u8>, Refusal> {
        let mut params = params_for(&leaf.key, &leaf.serial);
        set_validity(&mut params, leaf.validity)?;
        params.subject_alt_names.reserve(1 + leaf.dns_names.len());
        params.subject_alt_names.push(uri(leaf.spiffe_id)?);
        for name in leaf.dns_names {
            let text = name.as_str().try_into().map_err(failed)?;
            params.subject_alt_names.push(SanType::DnsName(text));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            TASK_BINDING_OID,
            leaf.binding.to_der(),
        )];
        self.sign(&params, &leaf.key)
    }

    /// A certificate for the log's key: no SVID, since it has no URI, and good for nothing else,
    /// since it has neither of the usages that TLS asks for (P15).
    pub(crate) fn log_key(
        &self,
        key: &P256PublicKey,
        serial: &[u8; 17],
        validity: Validity,
    ) -> Result<Vec<u8>, Refusal> {
        let mut params = params_for(key, serial);
        set_validity(&mut params, validity)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "Taskmint log key");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::Other(HEAD_SIGNING_OID.to_vec())];
        self.sign(&params, key)
    }

    /// A list of what was revoked: version 2, complete, for every certificate of the key.
    pub(crate) fn crl(&self, params: &CertificateRevocationListParams) -> Result<Vec<u8>, Refusal> {
        let list = params.signed_by(&self.issuer).map_err(failed)?;
        Ok(list.der().to_vec())
    }

    fn sign(&self, params: &CertificateParams, key: &P256PublicKey) -> Result<Vec<u8>, Refusal> {
        let subject = Subject(key.to_sec1());
        let certificate = params.signed_by(&subject, &self.issuer).map_err(failed)?;
        Ok(certificate.der().to_vec())
    }
}

/// A public key as rcgen takes it.
struct Subject([u8; 65]);

impl PublicKeyData for Subject {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// Everything of rcgen's defaults overwritten: they name a subject and last two millennia.
fn params_for(key: &P256PublicKey, serial: &[u8]) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Without a subject rcgen makes the alternative name critical, as X509-SVID.md 2 wants.
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id(key).to_vec());
    params.use_authority_key_identifier_extension = true;
    // `NoCa` would leave basic constraints out, and some SPIFFE clients refuse that.
    params.is_ca = IsCa::ExplicitNoCa;
    params
}

fn ca_params(
    trust_domain: &TrustDomain,
    key: &P256PublicKey,
) -> Result<CertificateParams, Refusal> {
    let mut params = params_for(key, &[]);
    params.use_authority_key_identifier_extension = false;
    params.serial_number = None;
    // The key's id in the name keeps apart two CAs that overlap in a rotation.
    let name = format!("Taskmint CA {}", hex::encode(key_id(key)));
    params.distinguished_name.push(DnType::CommonName, name);
    params
        .subject_alt_names
        .push(uri(trust_domain.id().as_str())?);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, (from, to): Validity) -> Result<(), Refusal> {
    params.not_before = second(from)?;
    params.not_after = second(to)?;
    Ok(())
}

/// As certificates and lists carry it.
pub(crate) fn second(at: Timestamp) -> Result<OffsetDateTime, Refusal> {
    let secs = i64::try_from(at.min(Timestamp::MAX).secs()).map_err(failed)?;
    OffsetDateTime::from_unix_timestamp(secs).map_err(failed)
}

fn uri(text: &str) -> Result<SanType, Refusal> {
    Ok(SanType::URI(text.try_into().map_err(failed)?))
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed(format!("building a certificate: {error}"))
}
