//! A P-256 key that signs, in memory and on a stack that nobody else can read.

use p256::SecretKey;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm,
};
use taskmint_id::P256PublicKey;
use taskmint_mint::Refusal;
use taskmint_mint::credential::Sign;
use taskmint_model::Entropy;
use taskmint_secret::{SecretBox, on_secret_stack};

use crate::secret::Secret;

/// The shape of a key's signatures.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// DER, as certificates carry them.
    Asn1,
    /// r || s, 64 octets, as tokens and heads carry them.
    Fixed,
}

/// A key pair. Signs from any number of threads at once.
pub(crate) struct Signer {
    /// ring keeps it in place, without a heap, and never wipes it: the box does.
    pair: SecretBox<EcdsaKeyPair>,
    public: P256PublicKey,
    random: SystemRandom,
}

/// A new private key: uniform below the group's order.
pub(crate) fn new_secret(entropy: &dyn Entropy) -> Result<Secret<32>, Refusal> {
    // One draw in 2^32 lies above the order; a source that keeps doing so is broken.
    for _ in 0..8 {
        let secret = Secret::filled(|bytes| entropy.fill(bytes));
        if public_of(&secret).is_some() {
            return Ok(secret);
        }
    }
    Err(Refusal::Failed(
        "no randomness to make a key from".to_owned(),
    ))
}

fn public_of(secret: &Secret<32>) -> Option<P256PublicKey> {
    on_secret_stack(|| {
        let key = SecretKey::from_slice(secret.expose()).ok()?;
        P256PublicKey::from_sec1(&key.public_key().to_sec1_bytes()).ok()
    })
}

impl Signer {
    /// The signer of a private key.
    pub(crate) fn new(secret: &Secret<32>, form: Form) -> Result<Self, Refusal> {
        let refused = || Refusal::Failed("a private key is out of range".to_owned());
        let algorithm: &'static EcdsaSigningAlgorithm = match form {
            Form::Asn1 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Form::Fixed => &ECDSA_P256_SHA256_FIXED_SIGNING,
        };
        let public = public_of(secret).ok_or_else(refused)?;
        let random = SystemRandom::new();
        let pair = SecretBox::try_make(|| {
            EcdsaKeyPair::from_private_key_and_public_key(
                algorithm,
                secret.expose(),
                &public.to_sec1(),
                &random,
            )
        });
        Ok(Self {
            pair: pair.map_err(|_| refused())?,
            public,
            random,
        })
    }
}

impl Sign for Signer {
    fn public(&self) -> &P256PublicKey {
        &self.public
    }

    fn sign(&self, said: &[u8]) -> Result<Vec<u8>, Refusal> {
        let signed = on_secret_stack(|| self.pair.expose().sign(&self.random, said));
        let signature = signed
            .map_err(|_| Refusal::Failed("signing: the kernel gave no randomness".to_owned()))?;
        Ok(signature.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use taskmint_testkit::SeededEntropy;

    use super::*;

    #[test]
    fn a_fixed_signature_verifies_under_the_public_key() {
        let secret = new_secret(&SeededEntropy::new(1)).unwrap();
        let signer = Signer::new(&secret, Form::Fixed).unwrap();
        let signature = signer.sign(b"message").unwrap();
        assert_eq!(signature.len(), 64);
        assert!(signer.public().verify(b"message", &signature).is_ok());
        assert!(signer.public().verify(b"massage", &signature).is_err());
    }

    #[test]
    fn randomness_that_is_all_zeroes_makes_no_key() {
        struct Zeroes;
        impl Entropy for Zeroes {
            fn fill(&self, buffer: &mut [u8]) {
                buffer.fill(0);
            }
        }
        assert!(matches!(new_secret(&Zeroes), Err(Refusal::Failed(_))));
    }
}
