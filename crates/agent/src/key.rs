//! P-256 keys that this agent makes.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use taskmint_id::P256PublicKey;
use zeroize::Zeroizing;

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

fn spki(pair: &EcdsaKeyPair) -> Option<Vec<u8>> {
    let key = P256PublicKey::from_sec1(pair.public_key().as_ref()).ok()?;
    Some(key.to_spki_der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_written_is_the_same_key() {
        let key = PrivateKey::generate().unwrap();
        let read = PrivateKey::from_pkcs8(key.pkcs8.clone()).unwrap();
        assert_eq!(read.spki, key.spki);
        assert!(PrivateKey::from_pkcs8(Zeroizing::new(vec![0x30, 0])).is_err());
    }
}
