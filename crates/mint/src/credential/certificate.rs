//! X.509 certificates: X509-SVID.md for CAs and leaves, P13 for serial and task extension, P15 for
//! the log's key.
//!
//! Everything that a request can influence is an argument of [`CaName::leaf`]; whatever else stands in
//! a certificate stands here. There is no argument for a CA bit, a key usage or an issuer.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber, SigningKey,
};
use sha2::{Digest as _, Sha256};
use taskmint_id::{P256PublicKey, TrustDomain};
use taskmint_model::{AuthorityId, Timestamp};
use taskmint_status::extension::{HEAD_SIGNING_OID, TASK_BINDING_OID};
use time::OffsetDateTime;

use super::Sign;
use crate::request::{Refusal, X509Request};

/// What tells a CA's own serial, and a log key's, from those of leaves, which begin with 1.
const CA_SERIAL: u8 = 2;
const LOG_KEY_SERIAL: u8 = 3;

/// First and last second of a certificate.
pub type Validity = (Timestamp, Timestamp);

/// A CA as what it signs names it: by its key alone, so that a restart needs no certificate to sign on.
pub struct CaName {
    params: CertificateParams,
}

/// The subject key id: RFC 7093 section 2, method 1.
#[must_use]
pub fn key_id(key: &P256PublicKey) -> [u8; 20] {
    let mut id = [0; 20];
    let hash = Sha256::digest(key.to_sec1());
    id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    id
}

/// A CA's serial number.
#[must_use]
pub fn ca_serial(id: AuthorityId) -> [u8; 17] {
    prefixed(CA_SERIAL, id.octets())
}

/// A log key certificate's serial number.
#[must_use]
pub fn log_key_serial(random: [u8; 16]) -> [u8; 17] {
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

impl CaName {
    /// The CA of a trust domain that has this key.
    ///
    /// # Errors
    /// When it can't be put into a certificate.
    pub fn new(trust_domain: &TrustDomain, key: &P256PublicKey) -> Result<Self, Refusal> {
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
        Ok(Self { params })
    }

    /// Its self-signed certificate, the anchor: DER.
    ///
    /// # Errors
    /// When it can't be built or signed.
    pub fn anchor(
        &self,
        by: &impl Sign,
        serial: &[u8; 17],
        validity: Validity,
    ) -> Result<Vec<u8>, Refusal> {
        let mut params = self.params.clone();
        params.serial_number = Some(SerialNumber::from_slice(serial));
        set_validity(&mut params, validity)?;
        let certificate = params.self_signed(&By::new(by)).map_err(failed)?;
        Ok(certificate.der().to_vec())
    }

    /// A certificate of a task, for this key and with this serial: DER.
    ///
    /// # Errors
    /// When it can't be built or signed.
    pub fn leaf(
        &self,
        by: &impl Sign,
        request: &X509Request,
        key: &P256PublicKey,
        serial: &[u8; 20],
    ) -> Result<Vec<u8>, Refusal> {
        let mut params = params_for(key, serial);
        set_validity(&mut params, (request.not_before, request.not_after))?;
        params
            .subject_alt_names
            .reserve(1 + request.dns_names.len());
        params
            .subject_alt_names
            .push(uri(request.facts.spiffe_id.as_str())?);
        for name in &request.dns_names {
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
            request.facts.binding().to_der(),
        )];
        self.signed(by, &params, key)
    }

    /// A certificate for the log's key: no SVID, since it has no URI, and good for nothing else,
    /// since it has neither of the usages that TLS asks for (P15). DER.
    ///
    /// # Errors
    /// When it can't be built or signed.
    pub fn log_key(
        &self,
        by: &impl Sign,
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
        self.signed(by, &params, key)
    }

    pub(super) fn issuer<'a, S: Sign>(&'a self, by: &'a S) -> Issuer<'a, By<'a, S>> {
        Issuer::from_params(&self.params, By::new(by))
    }

    fn signed(
        &self,
        by: &impl Sign,
        params: &CertificateParams,
        key: &P256PublicKey,
    ) -> Result<Vec<u8>, Refusal> {
        let certificate = params
            .signed_by(&Subject(key.to_sec1()), &self.issuer(by))
            .map_err(failed)?;
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

/// Who signs, as rcgen takes it.
pub(super) struct By<'a, S> {
    by: &'a S,
    subject: Subject,
}

impl<'a, S: Sign> By<'a, S> {
    fn new(by: &'a S) -> Self {
        let subject = Subject(by.public().to_sec1());
        Self { by, subject }
    }
}

impl<S: Sign> PublicKeyData for By<'_, S> {
    fn der_bytes(&self) -> &[u8] {
        self.subject.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.subject.algorithm()
    }
}

impl<S: Sign> SigningKey for By<'_, S> {
    fn sign(&self, said: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signed = self.by.sign(said);
        signed.map_err(|_| rcgen::Error::RemoteKeyError)
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

fn set_validity(params: &mut CertificateParams, (from, to): Validity) -> Result<(), Refusal> {
    params.not_before = second(from)?;
    params.not_after = second(to)?;
    Ok(())
}

/// As certificates and lists carry it.
pub(super) fn second(at: Timestamp) -> Result<OffsetDateTime, Refusal> {
    let secs = i64::try_from(at.min(Timestamp::MAX).secs()).map_err(failed)?;
    OffsetDateTime::from_unix_timestamp(secs).map_err(failed)
}

fn uri(text: &str) -> Result<SanType, Refusal> {
    Ok(SanType::URI(text.try_into().map_err(failed)?))
}

pub(super) fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed(format!("building a certificate: {error}"))
}
