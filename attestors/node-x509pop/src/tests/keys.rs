//! Every kind of key that a certificate may have.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};

use super::world::{World, prover};

/// A public key as rcgen wants it.
struct Public(Vec<u8>, &'static SignatureAlgorithm);

impl rcgen::PublicKeyData for Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.1
    }
}

#[tokio::test]
async fn other_kinds_of_keys_prove_nodes_too() {
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
    let ed25519 = Ed25519KeyPair::generate().unwrap();
    let rsa = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let keys = [
        (
            p384.public_key().as_ref(),
            &PKCS_ECDSA_P384_SHA384,
            p384.to_pkcs8v1().unwrap().as_ref().to_vec(),
        ),
        (
            ed25519.public_key().as_ref(),
            &PKCS_ED25519,
            ed25519.to_pkcs8().unwrap().as_ref().to_vec(),
        ),
        (
            rsa.public_key().as_ref(),
            &PKCS_RSA_SHA256,
            rsa.as_der().unwrap().as_ref().to_vec(),
        ),
    ];
    let world = World::new();
    let intermediate = world.intermediate();
    for (public, algorithm, pkcs8) in keys {
        let leaf = intermediate.certify(world.now, &Public(public.to_vec(), algorithm));
        let prover = prover(&[&leaf, &intermediate.certificate], &pkcs8);
        let attested = world.attest(&prover).await;
        assert!(attested.is_ok(), "{algorithm:?}: {attested:?}");
    }
}
