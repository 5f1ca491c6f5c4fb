//! A peer's certificates: chain, the rules of SPIFFE, and its task's place.
//!
//! A fuzzer has no key, and what nobody signed is refused before much of it is read. So an input
//! may also ask for the CA's signature over whatever it likes.

use std::sync::LazyLock;

use p256::ecdsa::Signature;
use rustls_pki_types::CertificateDer;
use taskmint_status::extension::TASK_BINDING_OID;
use taskmint_status::{Serial, TaskBinding};
use taskmint_testkit::{LeafSpec, SeededEntropy};
use taskmint_verifier::{PeerSvid, Policy, Refused, StatusCheck, judge, verify_x509};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::world::{LOG, WORLD, serial};

/// Certificates, each a tag, a length (u16) and so many bytes: an even tag is a certificate, an
/// odd one what the CA is to sign.
///
/// Accepted is only a leaf of the trust domain that the CA signed, that may sign nothing itself,
/// whose time it is, and whose task lives.
pub fn x509_svid(data: &[u8]) {
    LazyLock::force(&GOOD);
    let chain = chain(data);
    let Some(peer) = accepted(&chain) else { return };
    let (rest, leaf) = X509Certificate::from_der(&chain[0]).expect("what was accepted");
    assert!(rest.is_empty());
    let signature = Signature::from_der(&leaf.signature_value.data).expect("legible");
    // By another library than the verifier's.
    let (key, contents) = (WORLD.ca.public(), leaf.tbs_certificate.as_ref());
    key.verify(contents, &signature.to_bytes())
        .expect("the CA's");
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().expect("legible");
    assert!(usage.is_none_or(|usage| !usage.value.key_cert_sign() && !usage.value.crl_sign()));
    let (now, validity) = (WORLD.now.secs(), leaf.validity());
    let now = i64::try_from(now).expect("a date");
    assert!(validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp());
    let names = leaf
        .subject_alternative_name()
        .expect("legible")
        .expect("a name");
    let uris: Vec<_> = names.value.general_names.iter().filter_map(uri).collect();
    assert_eq!(uris, [peer.spiffe_id.as_str()]);
    assert!(*peer.spiffe_id.trust_domain() == WORLD.trust_domain && !peer.spiffe_id.is_root());
    let binding = peer.binding.expect("a task");
    assert!(lives(&binding));
    let serial = Serial::decode(leaf.raw_serial()).expect("a place");
    assert_eq!(serial.slot, binding.place.slot());
}

fn chain(mut data: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut chain = Vec::new();
    while let Some(([tag, high, low], rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (item, rest) = rest.split_at(length);
        let der = match tag % 2 {
            0 => item.to_vec(),
            _ => WORLD.certify(item),
        };
        chain.push(CertificateDer::from(der));
        data = rest;
        if chain.len() > 9 {
            break;
        }
    }
    chain
}

/// Who is let in: by chain, names, times, and then by the status of its task.
fn accepted(chain: &[CertificateDer<'_>]) -> Option<PeerSvid> {
    let peer = verify_x509(chain, &WORLD.bundles, WORLD.now).ok()?;
    judge(&EvenLives, &peer.spiffe_id, peer.binding.as_ref()).ok()?;
    Some(peer)
}

fn uri<'a>(name: &'a GeneralName<'_>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

fn lives(binding: &TaskBinding) -> bool {
    binding.place.log() == LOG && binding.place.index().is_multiple_of(2)
}

/// Tasks at odd places have ended.
struct EvenLives;

impl StatusCheck for EvenLives {
    fn check(&self, binding: &TaskBinding) -> Result<(), Refused> {
        if lives(binding) {
            return Ok(());
        }
        Err(Refused::new("TASK_ENDED", "the task has ended"))
    }

    fn policy(&self) -> Policy {
        Policy::OwnTrustDomain(WORLD.trust_domain.clone())
    }
}

/// That a good leaf is accepted, or all of this would prove nothing; and that the same leaf of a
/// task that has ended is not.
static GOOD: LazyLock<()> = LazyLock::new(|| {
    let leaf = |index| {
        let binding = WORLD.binding(index);
        let id = WORLD.trust_domain.id().to_string() + "/billing";
        let mut spec = LeafSpec::svid(&id.parse().expect("an id"), WORLD.now)
            .with_extension(TASK_BINDING_OID, binding.to_der());
        spec.serial = serial(&binding).to_vec();
        let leaf = WORLD.ca.issue(&spec, &SeededEntropy::new(index));
        accepted(&[CertificateDer::from(leaf.certificate)])
    };
    assert!(leaf(4).is_some() && leaf(5).is_none());
});
