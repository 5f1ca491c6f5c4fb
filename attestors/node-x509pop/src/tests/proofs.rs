//! Attacks on the proof: what was signed for one attestation, used in another.

use sha2::{Digest as _, Sha256};
use taskmint_attest::{Exchange, NodeAttestor as _, NodeProver as _, ServerContext};
use taskmint_testkit::Usage;

use super::world::{Honest, Outcome, Parrot, World, prover, server};
use crate::{Chain, X509PopAttestor};

/// Asks a server whose randomness starts anew: its first nonce is always the same, so that one
/// signature can be tried against many circumstances.
async fn fresh(world: &World, context: &ServerContext<'_>, payload: &[u8], sent: &[u8]) -> Outcome {
    let server: X509PopAttestor = server(&[world.ca.certificate()]);
    let mut parrot = Parrot {
        response: sent.to_vec(),
        asked: 0,
    };
    let attested = server.attest(context, payload, &mut parrot).await;
    attested.map_err(|error| error.reason())
}

/// The first nonce of a fresh server.
async fn first_nonce(world: &World, payload: &[u8]) -> Vec<u8> {
    struct Overhear(Vec<u8>);

    #[taskmint_attest::async_trait]
    impl Exchange for Overhear {
        async fn challenge(
            &mut self,
            challenge: Vec<u8>,
        ) -> Result<Vec<u8>, taskmint_attest::AttestError> {
            self.0 = challenge;
            Err(taskmint_attest::AttestError::Interrupted)
        }
    }

    let mut overhear = Overhear(Vec::new());
    let server = server(&[world.ca.certificate()]);
    let (_, context) = world.contexts();
    let refused = server.attest(&context, payload, &mut overhear).await;
    assert_eq!(refused.unwrap_err().reason(), "ATTESTATION_INTERRUPTED");
    overhear.0
}

#[tokio::test]
async fn a_certificate_in_hand_makes_a_node() {
    let world = World::new();
    let leaf = world.ca.issue(&world.spec(), &world.entropy);
    let prover = prover(&[&leaf.certificate], &leaf.key.pkcs8());
    let attested = world.attest(&prover).await.unwrap();
    assert_eq!(attested.attestor, "x509pop");
    let fingerprint = |der: &[u8]| hex::encode(Sha256::digest(der));
    assert_eq!(attested.node_suffix, fingerprint(&leaf.certificate));
    assert_eq!((attested.consume, attested.can_reattest), (None, true));
    let selectors: Vec<_> = attested.selectors.iter().map(ToString::to_string).collect();
    let ca = fingerprint(world.ca.certificate());
    assert_eq!(
        selectors,
        [
            "x509pop:subject:cn:device-1".to_owned(),
            format!("x509pop:ca:fingerprint:{ca}"),
            "x509pop:serialnumber:abcd".to_owned(),
        ]
    );
    let again = world.attest(&prover).await.unwrap();
    assert_eq!(again, attested, "the same certificate is the same node");
}

#[tokio::test]
async fn a_signature_is_good_for_one_nonce_connection_domain_and_key() {
    let world = World::new();
    let prover = world.prover(&world.spec());
    let (agent, context) = world.contexts();
    let payload = prover.begin(&agent).await.unwrap();
    let nonce = first_nonce(&world, &payload).await;
    let signature = prover.respond(&agent, &nonce).await.unwrap();
    let invalid = Err("PROOF_INVALID");

    let good = fresh(&world, &context, &payload, &signature).await;
    assert!(good.is_ok(), "{good:?}");

    // The second nonce of one server: a replay after the fact.
    let mut parrot = Parrot {
        response: signature.clone(),
        asked: 0,
    };
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let attested = world.server.attest(&context, &payload, &mut parrot).await;
        outcomes.push(attested.map(drop).map_err(|error| error.reason()));
    }
    assert_eq!(outcomes, [Ok(()), invalid]);

    // Relayed into a connection of the attacker's own.
    let elsewhere = ServerContext {
        tls_exporter: [8; 32],
        ..context
    };
    let outcome = fresh(&world, &elsewhere, &payload, &signature).await;
    assert_eq!(outcome, Err("PROOF_INVALID"));

    // With the attacker's key to be certified in place of the node's.
    let other_key = ServerContext {
        node_spki: b"the attacker's key",
        ..context
    };
    let outcome = fresh(&world, &other_key, &payload, &signature).await;
    assert_eq!(outcome, Err("PROOF_INVALID"));

    // At another trust domain, which trusts the same maker.
    let other_domain = ServerContext {
        trust_domain: "example.net",
        ..context
    };
    let outcome = fresh(&world, &other_domain, &payload, &signature).await;
    assert_eq!(outcome, Err("PROOF_INVALID"));
}

#[tokio::test]
async fn a_signature_is_good_for_the_certificate_that_was_shown() {
    let world = World::new();
    let leaf = world.ca.issue(&world.spec(), &world.entropy);
    let mut renewed = world.spec();
    renewed.serial = vec![2];
    let other = world.ca.certify(&renewed, &leaf.key);
    let (agent, context) = world.contexts();
    let shown = prover(&[&leaf.certificate], &leaf.key.pkcs8());
    let swapped = prover(&[&other], &leaf.key.pkcs8());
    let payload = swapped.begin(&agent).await.unwrap();
    let nonce = first_nonce(&world, &payload).await;
    for (signer, good) in [(&swapped, true), (&shown, false)] {
        let signature = signer.respond(&agent, &nonce).await.unwrap();
        let outcome = fresh(&world, &context, &payload, &signature).await;
        assert_eq!(outcome.is_ok(), good);
    }
}

#[tokio::test]
async fn whoever_has_the_certificate_only_is_refused() {
    let world = World::new();
    let leaf = world.ca.issue(&world.spec(), &world.entropy);
    let thief = world.ca.issue(&world.spec(), &world.entropy);
    let (agent, context) = world.contexts();
    let payload = Chain::new(vec![leaf.certificate.clone().into()])
        .unwrap()
        .encode();
    let nonce = first_nonce(&world, &payload).await;
    let own = prover(&[&thief.certificate], &thief.key.pkcs8());
    let by_own_key = own.respond(&agent, &nonce).await.unwrap();
    // What the device would sign for others, who let it sign their random octets.
    let without_context = leaf.key.sign(&nonce);
    let raw = rcgen::SigningKey::sign(&leaf.key, &nonce).unwrap();
    for (sent, reason) in [
        (by_own_key, "PROOF_INVALID"),
        (without_context, "PROOF_INVALID"),
        (raw, "PROOF_INVALID"),
        (vec![0x30; 70], "PROOF_INVALID"),
        (vec![0], "PROOF_INVALID"),
        (Vec::new(), "ATTESTATION_MALFORMED"),
        (vec![0; 1025], "ATTESTATION_MALFORMED"),
    ] {
        let outcome = fresh(&world, &context, &payload, &sent).await;
        assert_eq!(outcome, Err(reason));
    }
}

#[tokio::test]
async fn a_prover_signs_nonces_only() {
    let world = World::new();
    let prover = world.prover(&world.spec());
    let (agent, _) = world.contexts();
    for challenge in [&[][..], &[0; 31], &[0; 33], &[0; 64]] {
        let refused = prover.respond(&agent, challenge).await.unwrap_err();
        assert_eq!(refused.reason(), "ATTESTATION_MALFORMED");
    }
}

#[tokio::test]
async fn an_agent_that_went_away_is_no_node() {
    struct Gone;

    #[taskmint_attest::async_trait]
    impl Exchange for Gone {
        async fn challenge(&mut self, _: Vec<u8>) -> Result<Vec<u8>, taskmint_attest::AttestError> {
            Err(taskmint_attest::AttestError::Interrupted)
        }
    }

    let world = World::new();
    let prover = world.prover(&world.spec());
    let (agent, context) = world.contexts();
    let payload = prover.begin(&agent).await.unwrap();
    let outcome = world.server.attest(&context, &payload, &mut Gone).await;
    assert_eq!(outcome.unwrap_err().reason(), "ATTESTATION_INTERRUPTED");
}

#[tokio::test]
async fn the_agents_own_view_is_what_it_signs() {
    let world = World::new();
    let mut spec = world.spec();
    spec.usages = vec![Usage::DigitalSignature];
    let prover = world.prover(&spec);
    let (agent, context) = world.contexts();
    let payload = prover.begin(&agent).await.unwrap();
    let mut lied_to = Honest {
        prover: &prover,
        agent: taskmint_attest::AgentContext {
            trust_domain: "example.net",
            ..agent
        },
    };
    let outcome = world.server.attest(&context, &payload, &mut lied_to).await;
    assert_eq!(outcome.unwrap_err().reason(), "PROOF_INVALID");
}
