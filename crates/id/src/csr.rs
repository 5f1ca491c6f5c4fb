//! CSRs (PKCS#10, RFC 2986) over keys that their owner keeps.

use p256::ecdsa::Signature;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::P256PublicKey;

/// The longest CSR that is read, in bytes.
pub const MAX_CSR: usize = 16 << 10;

/// ecdsa-with-SHA256 (RFC 5758, section 3.2).
const ECDSA_WITH_SHA256: &str = "1.2.840.10045.4.3.2";

/// What is wrong with a CSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`MAX_CSR`].
    #[error("has more than {MAX_CSR} bytes")]
    TooLong,
    /// Not one PKCS#10 request with nothing after it.
    #[error("is no PKCS#10 request in DER")]
    Malformed,
    /// Over another kind of key.
    #[error("must be over a P-256 key")]
    Key,
    /// Signed in another way.
    #[error("must be signed with ecdsa-with-SHA256")]
    Algorithm,
    /// Not by the key that it is over.
    #[error("is not signed by its own key")]
    Signature,
}

/// The public key of a CSR, if its owner has the private one. Nothing else of a CSR is looked at:
/// names, extensions and the rest are the task's, not the requester's.
///
/// # Errors
/// The first thing that is wrong.
pub fn key_of_csr(csr: &[u8]) -> Result<P256PublicKey, CsrError> {
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
    Ok(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn no_bytes_make_a_csr_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(key_of_csr(&bytes).is_err());
        }
    }

    #[test]
    fn a_csr_that_is_too_long_is_not_read() {
        assert_eq!(key_of_csr(&vec![0x30; MAX_CSR + 1]), Err(CsrError::TooLong));
    }
}
