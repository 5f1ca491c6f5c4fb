//! A signer that counts and answers well, and says something else than it was asked to.

mod keys;

use taskmint_id::SpiffeId;
use taskmint_model::{TaskId, Timestamp};
use taskmint_status::{LogId, Place};
use taskmint_testkit::{SeededEntropy, TestKey};

use super::*;
use crate::port::SignerTail;
use crate::request::{Class, Facts, Grant, KeyAlgorithm, PublicKey};

const CA: AuthorityId = AuthorityId::from_octets([1; 16]);
const JWT: AuthorityId = AuthorityId::from_octets([2; 16]);
const LOG: LogId = LogId([7; 8]);

/// A signer's keys, and who looks at what they sign.
struct Keys {
    key: TestKey,
    inspector: Inspector,
}

impl Sign for Keys {
    fn public(&self) -> &P256PublicKey {
        self.key.public()
    }

    fn sign(&self, said: &[u8]) -> Result<Vec<u8>, Refusal> {
        Ok(self.key.sign(said))
    }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

impl Keys {
    fn new() -> Self {
        let key = TestKey::generate(&SeededEntropy::new(1));
        let inspector = Inspector::new(&Policy::new(trust_domain()), 0);
        let start = LogStart {
            log: LOG,
            generation: 3,
            replaces: None,
            epoch: 1,
            sequence: 0,
            hash: [0; 32],
            floor: 0,
            at: Timestamp::default(),
        };
        inspector.learn(&[], &start);
        inspector.learn_key(CA, KeyKind::Ca { ttl_secs: 1 }, &key.spki(), &[]);
        inspector.learn_key(JWT, KeyKind::Jwt, &key.spki(), &[]);
        Self { key, inspector }
    }

    fn certificate(&self, request: &X509Request) -> Vec<u8> {
        let ca = CaName::new(&trust_domain(), self.key.public()).unwrap();
        let serial = request.serial(Generation::new(3).unwrap());
        let key = request.key.point().unwrap();
        ca.leaf(self, request, &key, &serial).unwrap()
    }

    fn token(&self, request: &JwtRequest) -> Vec<u8> {
        let header = TokenHeader::new(self.key.public());
        TokenHeader::signed(header.input(request).unwrap(), self).unwrap()
    }

    fn passes(&self, asked: Request, by: AuthorityId, bytes: Vec<u8>) -> bool {
        let signed = Signed {
            bytes,
            signature: Vec::new(),
            authority: by,
            tail: SignerTail::default(),
        };
        let looked = self.inspector.look_at(&Asked::from(&asked), &signed);
        looked.is_ok()
    }
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + secs)
}

fn facts() -> Facts {
    let entropy = SeededEntropy::new(2);
    Facts {
        task: TaskId::new(at(0), &entropy),
        root: TaskId::new(at(0), &entropy),
        spiffe_id: SpiffeId::parse("spiffe://example.org/billing").unwrap(),
        place: Place::new(LOG, 500_000, 9).unwrap(),
        limit: at(3600),
        class: Class::Workload,
    }
}

fn x509() -> X509Request {
    X509Request {
        facts: facts(),
        grant: Grant(vec![1; 49]),
        key: public_key(3),
        dns_names: vec!["billing.example.org".to_owned()],
        serial_random: [4; 9],
        not_before: at(0),
        not_after: at(600),
    }
}

fn jwt() -> JwtRequest {
    JwtRequest {
        facts: facts(),
        grant: Grant(vec![1; 49]),
        audiences: vec!["reports".to_owned()],
        jti: [5; 16],
        issued_at: at(0),
        expires_at: at(300),
        status_uri: Some("https://example.org/status/1".to_owned()),
    }
}

fn public_key(seed: u64) -> PublicKey {
    PublicKey {
        algorithm: KeyAlgorithm::EcP256,
        spki: TestKey::generate(&SeededEntropy::new(seed)).spki(),
    }
}

/// Every change of one thing that the facts say.
fn other_facts() -> Vec<Facts> {
    let other = |change: fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        facts
    };
    vec![
        other(|facts| facts.task = facts.root),
        other(|facts| facts.root = facts.task),
        other(|facts| facts.spiffe_id = SpiffeId::parse("spiffe://example.org/billinf").unwrap()),
        other(|facts| facts.place = Place::new(LogId([6; 8]), 500_000, 9).unwrap()),
        other(|facts| facts.place = Place::new(LOG, 500_001, 9).unwrap()),
        other(|facts| facts.place = Place::new(LOG, 500_000, 8).unwrap()),
    ]
}

#[test]
fn what_was_asked_for_passes() {
    let keys = Keys::new();
    assert!(keys.passes(Request::X509(x509()), CA, keys.certificate(&x509())));
    assert!(keys.passes(Request::Jwt(jwt()), JWT, keys.token(&jwt())));
}

#[test]
fn a_certificate_that_says_something_else_does_not_leave() {
    let keys = Keys::new();
    let other = |change: fn(&mut X509Request)| {
        let mut request = x509();
        change(&mut request);
        request
    };
    let mut others = vec![
        other(|request| request.key = public_key(9)),
        other(|request| request.dns_names.clear()),
        other(|request| request.dns_names = vec!["billinf.example.org".to_owned()]),
        other(|request| request.serial_random[8] ^= 1),
        other(|request| request.not_before = at(1)),
        other(|request| request.not_after = at(601)),
    ];
    others.extend(
        other_facts()
            .into_iter()
            .map(|facts| X509Request { facts, ..x509() }),
    );
    for signed in others {
        let bytes = keys.certificate(&signed);
        assert!(!keys.passes(Request::X509(x509()), CA, bytes), "{signed:?}");
    }
}

#[test]
fn a_token_that_says_something_else_does_not_leave() {
    let keys = Keys::new();
    let other = |change: fn(&mut JwtRequest)| {
        let mut request = jwt();
        change(&mut request);
        request
    };
    let mut others = vec![
        other(|request| request.audiences = vec!["reporta".to_owned()]),
        other(|request| request.audiences.push("more".to_owned())),
        other(|request| request.jti[0] ^= 1),
        other(|request| request.issued_at = at(1)),
        other(|request| request.expires_at = at(301)),
        other(|request| request.status_uri = None),
    ];
    others.extend(
        other_facts()
            .into_iter()
            .map(|facts| JwtRequest { facts, ..jwt() }),
    );
    for signed in others {
        let bytes = keys.token(&signed);
        assert!(!keys.passes(Request::Jwt(jwt()), JWT, bytes), "{signed:?}");
    }
}

#[test]
fn no_bit_of_what_is_signed_can_flip() {
    let keys = Keys::new();
    let certificate = keys.certificate(&x509());
    let signature = certificate_signature(&certificate).unwrap().len();
    for bit in 0..(certificate.len() - signature) * 8 {
        let mut bytes = certificate.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!keys.passes(Request::X509(x509()), CA, bytes), "bit {bit}");
    }
    let token = keys.token(&jwt());
    let signed = token.iter().rposition(|octet| *octet == b'.').unwrap();
    for bit in 0..=signed * 8 + 7 {
        let mut bytes = token.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!keys.passes(Request::Jwt(jwt()), JWT, bytes), "bit {bit}");
    }
}

#[test]
fn a_token_ends_with_one_signature_in_its_one_form() {
    let keys = Keys::new();
    let token = keys.token(&jwt());
    let passes = |bytes: Vec<u8>| keys.passes(Request::Jwt(jwt()), JWT, bytes);
    let at = token.iter().rposition(|octet| *octet == b'.').unwrap();
    let (input, signature) = token.split_at(at);
    let with = |signature: &[u8]| [input, signature].concat();
    assert!(passes(with(signature)));
    // The last of 86 letters has four bits that say nothing, and are zero.
    let mut loose = signature.to_vec();
    *loose.last_mut().unwrap() = b'B';
    let longer = [signature, b"A"].concat();
    let padded = [signature, b"=="].concat();
    let no_text = [&b"."[..], &[b'!'; 86]].concat();
    let twice = [signature, signature].concat();
    let shorter = &signature[..signature.len() - 1];
    for bad in [
        &loose[..],
        &longer,
        &padded,
        &no_text,
        &twice,
        shorter,
        b".",
        b"",
    ] {
        assert!(!passes(with(bad)), "{}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn another_kind_of_credential_does_not_leave() {
    let keys = Keys::new();
    let (certificate, token) = (keys.certificate(&x509()), keys.token(&jwt()));
    assert!(!keys.passes(Request::X509(x509()), JWT, token.clone()));
    assert!(!keys.passes(Request::X509(x509()), CA, token.clone()));
    assert!(!keys.passes(Request::Jwt(jwt()), CA, certificate));
    let unknown = AuthorityId::from_octets([9; 16]);
    assert!(!keys.passes(Request::Jwt(jwt()), unknown, token));
    assert!(!keys.passes(Request::Jwt(jwt()), JWT, Vec::new()));
    assert!(!keys.passes(Request::X509(x509()), CA, Vec::new()));
}
