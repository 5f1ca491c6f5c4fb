//! What a watcher shows for a fork that it reports (protocol P15): a stranger's octets, read by server
//! and agents.

use taskmint_verifier::Trust;
use taskmint_verifier::watch::Evidence;
use taskmint_wire::revocation as wire;

use crate::world::WORLD;

/// Reads an octet of flags, and two bodies of about the same length. Each is signed by the log's key
/// unless its flag says otherwise, and names that key's certificate, or itself for one.
pub fn watch_evidence(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else {
        return;
    };
    let (one, other) = rest.split_at(rest.len() / 2);
    let shown = [statement(flags & 3, one), statement(flags >> 2 & 3, other)];
    let read = |shown: &[wire::Statement]| {
        let trust = Trust::new(WORLD.bundles.clone());
        let log = (&WORLD.trust_domain, u32::from(flags >> 4));
        Evidence::read(shown, log, &trust, WORLD.now)
    };
    let evidence = read(&shown);
    let lines = evidence.in_words();
    assert_eq!(lines.len(), 3);
    if evidence.is_proof() {
        let is_signed = |flags: u8| flags & 3 == 0;
        assert!(is_signed(*flags) && is_signed(flags >> 2), "{lines:?}");
        assert_ne!(one, other, "nothing contradicts itself");
    }
    let [one, other] = shown;
    let turned = read(&[other.clone(), one]);
    assert_eq!(turned.is_proof(), evidence.is_proof());
    assert!(!read(&[other]).is_proof());
}

fn statement(flags: u8, body: &[u8]) -> wire::Statement {
    let signature = match flags & 1 {
        0 => WORLD.sign_for_log(body),
        _ => body.iter().copied().take(64).collect(),
    };
    let certificate = match flags & 2 {
        0 => WORLD.log_certificate.clone(),
        _ => body.to_vec(),
    };
    wire::Statement {
        body: body.to_vec().into(),
        signature: signature.into(),
        key_certificate: certificate.into(),
    }
}
