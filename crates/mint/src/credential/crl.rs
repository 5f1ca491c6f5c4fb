//! Certificate revocation lists: RFC 5280, section 5; version 2, complete, for every certificate of a
//! key (P22).

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use taskmint_id::P256PublicKey;

use super::certificate::{failed, key_id, second};
use super::{CaName, Sign};
use crate::request::{CrlNumber, CrlReason, CrlRequest, Refusal};

/// What a list says.
pub struct CrlContent {
    params: CertificateRevocationListParams,
}

impl CrlContent {
    /// What is asked for, of the CA with this key.
    ///
    /// # Errors
    /// When a time can't be written.
    pub fn new(key: &P256PublicKey, request: &CrlRequest) -> Result<Self, Refusal> {
        let revoked = request.revoked.iter().map(|entry| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&entry.serial),
                revocation_time: second(entry.at)?,
                reason_code: Some(reason(entry.reason)),
                invalidity_date: None,
            })
        });
        let params = CertificateRevocationListParams {
            this_update: second(request.this_update)?,
            next_update: second(request.next_update)?,
            crl_number: SerialNumber::from_slice(&request.number.octets()),
            // openssl refuses such a point unless the certificate names the same one, tried.
            issuing_distribution_point: None,
            revoked_certs: revoked.collect::<Result<_, Refusal>>()?,
            key_identifier_method: KeyIdMethod::PreSpecified(key_id(key).to_vec()),
        };
        Ok(Self { params })
    }

    /// The list: DER.
    ///
    /// # Errors
    /// When it can't be built or signed.
    pub fn signed(&self, ca: &CaName, by: &impl Sign) -> Result<Vec<u8>, Refusal> {
        let list = self.params.signed_by(&ca.issuer(by)).map_err(failed)?;
        Ok(list.der().to_vec())
    }
}

impl CrlNumber {
    /// As a list carries it. The generation is never zero, so these are a positive INTEGER of one
    /// length up to generation 127 and of one more from there on.
    #[must_use]
    pub fn octets(self) -> [u8; 13] {
        let mut octets = [0; 13];
        let parts = std::iter::once(self.generation)
            .chain(self.epoch.to_be_bytes())
            .chain(self.count.to_be_bytes());
        octets
            .iter_mut()
            .zip(parts)
            .for_each(|(to, from)| *to = from);
        octets
    }
}

fn reason(reason: CrlReason) -> RevocationReason {
    match reason {
        CrlReason::CessationOfOperation => RevocationReason::CessationOfOperation,
        CrlReason::Superseded => RevocationReason::Superseded,
        CrlReason::PrivilegeWithdrawn => RevocationReason::PrivilegeWithdrawn,
        CrlReason::CertificateHold => RevocationReason::CertificateHold,
    }
}
