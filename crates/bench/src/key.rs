//! A key pair of a node or a workload.

use anyhow::Context as _;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

/// A P-256 key pair.
pub(crate) struct Key(EcdsaKeyPair);

impl Key {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).ok();
        pair.map(Self).context("cannot make a key")
    }

    /// SubjectPublicKeyInfo, DER.
    pub(crate) fn spki(&self) -> anyhow::Result<Vec<u8>> {
        let der: PublicKeyX509Der<'_> =
            self.0.public_key().as_der().ok().context("no public key")?;
        Ok(der.as_ref().to_vec())
    }

    /// Unencrypted PKCS#8, DER.
    pub(crate) fn pkcs8(&self) -> anyhow::Result<Vec<u8>> {
        let der = self.0.to_pkcs8v1().ok().context("no private key")?;
        Ok(der.as_ref().to_vec())
    }
}
