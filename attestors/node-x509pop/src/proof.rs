//! What the certificate's key signs, and how.

use rustls::SignatureScheme;
use rustls_pki_types::SignatureVerificationAlgorithm;
use sha2::{Digest as _, Sha256};
use taskmint_attest::AttestError;
use webpki::EndEntityCert;
use webpki::aws_lc_rs::{
    ECDSA_P256_SHA256, ECDSA_P384_SHA384, ECDSA_P521_SHA512, ED25519,
    RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
};

/// Octets of the server's nonce.
pub(crate) const NONCE: usize = 32;

/// Of a signature by the longest key that is verified, RSA of 8,192 bits.
const MAX_SIGNATURE: usize = 1024;

/// The same certificate may be used for TLS. What TLS 1.2 has signed begins with random octets of
/// both sides, and what TLS 1.3 has signed with 64 spaces and its own context (RFC 8446, 4.4.3):
/// the spaces and a context of ours keep this signature apart from both.
const SPACES: [u8; 64] = [b' '; 64];
const CONTEXT: &[u8] = b"Taskmint x509pop 1, node attestation\0";

/// For each kind of key, the one way in which it signs: nothing is negotiated.
pub(crate) const SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// The same, to verify; each is for another kind of key.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    ECDSA_P256_SHA256,
    ECDSA_P384_SHA384,
    ECDSA_P521_SHA512,
    ED25519,
    RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
];

/// What is proved: who holds `leaf`'s key asks, on this connection and now, for the node's key to
/// be certified in this trust domain.
pub(crate) struct Statement<'a> {
    pub(crate) nonce: &'a [u8; NONCE],
    pub(crate) tls_exporter: &'a [u8; 32],
    pub(crate) trust_domain: &'a str,
    pub(crate) node_spki: &'a [u8],
    pub(crate) leaf: &'a [u8],
}

impl Statement<'_> {
    /// What is signed. Every part has a fixed length, so no two statements share their octets.
    pub(crate) fn message(&self) -> Vec<u8> {
        [
            &SPACES[..],
            CONTEXT,
            self.nonce,
            self.tls_exporter,
            &Sha256::digest(self.trust_domain),
            &Sha256::digest(self.node_spki),
            &Sha256::digest(self.leaf),
        ]
        .concat()
    }

    /// Whether `signature` is one by the leaf's key over this.
    ///
    /// # Errors
    /// A refusal that says what is wrong.
    pub(crate) fn verify(&self, signature: &[u8]) -> Result<(), AttestError> {
        if signature.is_empty() || signature.len() > MAX_SIGNATURE {
            return Err(AttestError::Malformed {
                what: "the signature",
            });
        }
        let der = self.leaf.into();
        let leaf = EndEntityCert::try_from(&der).map_err(|_| AttestError::Malformed {
            what: "the certificate",
        })?;
        let message = self.message();
        for algorithm in ALGORITHMS {
            match leaf.verify_signature(*algorithm, &message, signature) {
                Ok(()) => return Ok(()),
                Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
                Err(_) => return Err(refused("PROOF_INVALID", INVALID)),
            }
        }
        Err(refused("CERTIFICATE_KEY_UNSUPPORTED", UNSUPPORTED))
    }
}

const INVALID: &str = "the signature is not by the certificate's key, or was made for another \
    connection, trust domain or node key";

const UNSUPPORTED: &str = "the certificate's key is none of P-256, P-384, P-521, Ed25519 and RSA \
    of 2048 to 8192 bits";

pub(crate) fn refused(reason: &'static str, detail: impl Into<String>) -> AttestError {
    AttestError::Refused {
        reason,
        detail: detail.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fixed: an agent and a server of different releases must agree on it.
    #[test]
    fn the_signed_message_has_one_form() {
        let statement = Statement {
            nonce: &[1; NONCE],
            tls_exporter: &[2; 32],
            trust_domain: "example.org",
            node_spki: b"key",
            leaf: b"leaf",
        };
        let message = statement.message();
        assert_eq!(message.len(), 64 + 37 + 5 * 32);
        assert_eq!(message[..64], [b' '; 64]);
        assert_eq!(&message[64..101], b"Taskmint x509pop 1, node attestation\0");
        assert_eq!(message[101..133], [1; 32]);
        assert_eq!(message[133..165], [2; 32]);
        assert_eq!(message[165..197], *Sha256::digest(b"example.org"));
        assert_eq!(message[197..229], *Sha256::digest(b"key"));
        assert_eq!(message[229..], *Sha256::digest(b"leaf"));
    }
}
