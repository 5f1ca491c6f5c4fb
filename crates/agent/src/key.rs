//! P-256 keys that this agent makes, and CSRs over keys that a caller keeps.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use p256::ecdsa::Signature;
use taskmint_id::P256PublicKey;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

/// The longest CSR that is read, in bytes.
pub(crate) const MAX_CSR: usize = 16 << 10;

/// ecdsa-with-SHA256 (RFC 5758, section 3.2).
const ECDSA_WITH_SHA256: &str = "1.2.840.10045.4.3.2";

/// A private key, wiped on drop, and its public half.
pub(crate) struct PrivateKey {
    /// PKCS#8 DER.
    pub(crate) pkcs8: Zeroizing<Vec<u8>>,
    /// SPKI DER.
    pub(crate) spki: Vec<u8>,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// The generator failed, or made what is no key.
    #[error("no key could be made")]
    Generate,
    /// The bytes hold no P-256 key in PKCS#8.
    #[error("the key file holds no p-256 key in pkcs#8")]
    Malformed,
}

/// What is wrong with a CSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsrError {
    #[error("has more than {MAX_CSR} bytes")]
    TooLong,
    #[error("is no PKCS#10 request in DER")]
    Malformed,
    #[error("must be over a P-256 key")]
    Key,
    #[error("must be signed with ecdsa-with-SHA256")]
    Algorithm,
    #[error("is not signed by its own key")]
    Signature,
}

impl PrivateKey {
    /// A new key.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_| KeyError::Generate)?;
        // The document wipes itself on drop; so does the copy.
        let document = pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        Ok(Self {
            pkcs8: Zeroizing::new(document.as_ref().to_vec()),
            spki: spki(&pair).ok_or(KeyError::Generate)?,
        })
    }

    /// A key as it was written.
    pub(crate) fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8)
            .map_err(|_| KeyError::Malformed)?;
        let spki = spki(&pair).ok_or(KeyError::Malformed)?;
        Ok(Self { pkcs8, spki })
    }
}

/// The public key of a CSR, SPKI DER, if its owner has the private one. Nothing else of a CSR is
/// looked at: names, extensions and the rest are the task's, not the requester's.
pub(crate) fn csr_spki(csr: &[u8]) -> Result<Vec<u8>, CsrError> {
    if csr.len() > MAX_CSR {
        return Err(CsrError::TooLong);
    }
    let (rest, csr) = X509CertificationRequest::from_der(csr).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    if csr.signature_algorithm.algorithm.to_id_string() != ECDSA_WITH_SHA256 {
        return Err(CsrError::Algorithm);
    }
    let info = &csr.certification_request_info;
    let key = P256PublicKey::from_spki_der(info.subject_pki.raw).map_err(|_| CsrError::Key)?;
    let signature =
        Signature::from_der(&csr.signature_value.data).map_err(|_| CsrError::Signature)?;
    key.verify(info.raw, &signature.to_bytes())
        .map_err(|_| CsrError::Signature)?;
    Ok(key.to_spki_der().to_vec())
}

fn spki(pair: &EcdsaKeyPair) -> Option<Vec<u8>> {
    let key = P256PublicKey::from_sec1(pair.public_key().as_ref()).ok()?;
    Some(key.to_spki_der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_that_was_written_is_the_same_key() {
        let key = PrivateKey::generate().unwrap();
        let read = PrivateKey::from_pkcs8(key.pkcs8.clone()).unwrap();
        assert_eq!(read.spki, key.spki);
        assert!(PrivateKey::from_pkcs8(Zeroizing::new(vec![0x30, 0])).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn no_bytes_make_a_csr_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(csr_spki(&bytes).is_err());
        }
    }

    #[test]
    fn a_csr_that_is_too_long_is_not_read() {
        assert_eq!(csr_spki(&vec![0x30; MAX_CSR + 1]), Err(CsrError::TooLong));
    }
}
