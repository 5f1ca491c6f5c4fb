//! P-256 keys, and tokens that say whatever a test wants.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use p256::SecretKey;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::EncodePrivateKey as _;
use serde_json::Value;
use taskmint_id::P256PublicKey;
use taskmint_model::Entropy;

use crate::must;

/// A P-256 key pair, signing with the `p256` crate.
pub struct TestKey {
    secret: SecretKey,
    public: P256PublicKey,
    point: [u8; 65],
}

impl TestKey {
    /// A new one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        loop {
            // One draw in 2^32 is above the group's order.
            if let Ok(secret) = SecretKey::from_slice(&entropy.array::<32>()) {
                return Self::from_secret(secret);
            }
        }
    }

    /// From the private scalar.
    pub fn from_scalar(scalar: &[u8; 32]) -> Self {
        Self::from_secret(must(SecretKey::from_slice(scalar)))
    }

    fn from_secret(secret: SecretKey) -> Self {
        let public = must(P256PublicKey::from_sec1(
            &secret.public_key().to_sec1_bytes(),
        ));
        Self {
            secret,
            public,
            point: public.to_sec1(),
        }
    }

    /// Its public half.
    pub fn public(&self) -> &P256PublicKey {
        &self.public
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> Vec<u8> {
        self.public.to_spki_der().to_vec()
    }

    /// Unencrypted PKCS#8, DER: what TLS stacks and the Workload API take.
    pub fn pkcs8(&self) -> Vec<u8> {
        must(self.secret.to_pkcs8_der()).as_bytes().to_vec()
    }

    /// ES256 over `message`: r || s, 64 octets.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.signature(message).to_bytes().to_vec()
    }

    /// As [`Self::sign`], in the DER form that certificates carry.
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        self.signature(message).to_der().as_bytes().to_vec()
    }

    /// A compact JWS with exactly this header and these claims.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        token(header, claims, |input| self.sign(input))
    }

    fn signature(&self, message: &[u8]) -> Signature {
        SigningKey::from(self.secret.clone()).sign(message)
    }
}

/// A compact JWS whose signature is whatever `sign` says.
pub fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let input = format!("{}.{}", part(header), part(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(sign(input.as_bytes()));
    format!("{input}.{signature}")
}

/// A public key whose private half is elsewhere: the uncompressed point.
pub(crate) struct PublicKey(pub(crate) [u8; 65]);

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::PublicKeyData for TestKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for TestKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.signature(message).to_der().as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::SeededEntropy;

    #[test]
    fn a_token_verifies_under_its_key_and_no_other() {
        let key = TestKey::generate(&SeededEntropy::new(1));
        let other = TestKey::generate(&SeededEntropy::new(2));
        let token = key.token(&json!({ "alg": "ES256" }), &json!({ "sub": "x" }));
        let (input, signature) = token.rsplit_once('.').unwrap();
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(key.public().verify(input.as_bytes(), &signature).is_ok());
        assert!(other.public().verify(input.as_bytes(), &signature).is_err());
    }
}
