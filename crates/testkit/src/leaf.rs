//! Leaves: good ones by default, and wrong in every way that a test asks for.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber,
};
use taskmint_id::SpiffeId;
use taskmint_model::Timestamp;
use time::OffsetDateTime;

use crate::key::TestKey;
use crate::must;

/// What a leaf says. Start from [`LeafSpec::svid`] and make it wrong.
#[derive(Debug, Clone)]
pub struct LeafSpec {
    /// Common name; the subject is empty without one.
    pub common_name: Option<String>,
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// First second.
    pub not_before: Timestamp,
    /// Last second.
    pub not_after: Timestamp,
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
    /// Basic constraints.
    pub constraints: Constraints,
    /// Key usages; none leaves the extension out.
    pub usages: Vec<Usage>,
    /// Extended key usages by OID; none leaves the extension out.
    pub extended_usages: Vec<Vec<u64>>,
    /// Further extensions: OID, critical, DER.
    pub extensions: Vec<(Vec<u64>, bool, Vec<u8>)>,
}

/// Basic constraints of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constraints {
    /// Left out.
    Absent,
    /// There, and no CA.
    EndEntity,
    /// A CA.
    Ca,
}

/// A key usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// `digitalSignature`.
    DigitalSignature,
    /// `keyCertSign`.
    CertSign,
    /// `cRLSign`.
    CrlSign,
}

/// A certificate and its key.
pub struct TestLeaf {
    /// DER.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: TestKey,
}

impl LeafSpec {
    /// `id-kp-serverAuth`.
    pub const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
    /// `id-kp-clientAuth`.
    pub const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];

    /// A good X.509-SVID from half a minute ago to ten minutes on.
    pub fn svid(id: &SpiffeId, now: Timestamp) -> Self {
        Self {
            common_name: None,
            uris: vec![id.to_string()],
            dns_names: Vec::new(),
            not_before: now - Duration::from_secs(30),
            not_after: now + Duration::from_secs(600),
            serial: vec![0x11; 20],
            constraints: Constraints::EndEntity,
            usages: vec![Usage::DigitalSignature],
            extended_usages: vec![Self::SERVER_AUTH.to_vec(), Self::CLIENT_AUTH.to_vec()],
            extensions: Vec::new(),
        }
    }

    /// With one more extension, not critical.
    #[must_use]
    pub fn with_extension(mut self, oid: &[u64], der: Vec<u8>) -> Self {
        self.extensions.push((oid.to_vec(), false, der));
        self
    }

    pub(crate) fn params(&self, key: &impl PublicKeyData) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &self.common_name {
            params
                .distinguished_name
                .push(DnType::CommonName, name.as_str());
        }
        params.serial_number = Some(SerialNumber::from_slice(&self.serial));
        params.not_before = date(self.not_before);
        params.not_after = date(self.not_after);
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_id(key));
        params.use_authority_key_identifier_extension = true;
        let uris = self
            .uris
            .iter()
            .map(|uri| SanType::URI(must(uri.as_str().try_into())));
        let dns = self
            .dns_names
            .iter()
            .map(|name| SanType::DnsName(must(name.as_str().try_into())));
        params.subject_alt_names = uris.chain(dns).collect();
        params.is_ca = match self.constraints {
            Constraints::Absent => IsCa::NoCa,
            Constraints::EndEntity => IsCa::ExplicitNoCa,
            Constraints::Ca => IsCa::Ca(BasicConstraints::Unconstrained),
        };
        params.key_usages = self.usages.iter().map(|usage| usage.purpose()).collect();
        let other = |oid: &Vec<u64>| ExtendedKeyUsagePurpose::Other(oid.clone());
        params.extended_key_usages = self.extended_usages.iter().map(other).collect();
        params.custom_extensions = self.extensions.iter().map(extension).collect();
        params
    }
}

impl Usage {
    fn purpose(self) -> KeyUsagePurpose {
        match self {
            Self::DigitalSignature => KeyUsagePurpose::DigitalSignature,
            Self::CertSign => KeyUsagePurpose::KeyCertSign,
            Self::CrlSign => KeyUsagePurpose::CrlSign,
        }
    }
}

fn extension((oid, critical, der): &(Vec<u64>, bool, Vec<u8>)) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, der.clone());
    extension.set_criticality(*critical);
    extension
}

/// Twenty octets that tell keys apart; how they are made does not matter.
pub(crate) fn key_id(key: &impl PublicKeyData) -> Vec<u8> {
    key.der_bytes().iter().skip(1).take(20).copied().collect()
}

pub(crate) fn date(at: Timestamp) -> OffsetDateTime {
    must(OffsetDateTime::from_unix_timestamp(must(i64::try_from(
        at.secs(),
    ))))
}
