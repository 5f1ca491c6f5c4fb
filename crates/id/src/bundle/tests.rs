use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const P256: &[u8] = include_bytes!("../../testdata/p256.der");
const CERTIFICATES: [&[u8]; 4] = [
    P256,
    include_bytes!("../../testdata/p384.der"),
    include_bytes!("../../testdata/rsa.der"),
    include_bytes!("../../testdata/ed25519.der"),
];
const SECP256K1: &[u8] = include_bytes!("../../testdata/secp256k1.der");

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn key(seed: u8) -> P256PublicKey {
    let signing = p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap();
    P256PublicKey::from_sec1(signing.verifying_key().to_sec1_point(false).as_bytes()).unwrap()
}

/// One authority of each kind, as JSON to tamper with.
fn sample() -> Value {
    let mut bundle = Bundle::new(domain()).with_sequence(7);
    bundle.add_x509_authority(X509Authority::from_der(P256).unwrap());
    bundle.add_jwt_authority("k1", key(1)).unwrap();
    serde_json::from_str(&bundle.to_json()).unwrap()
}

fn read(document: &Value) -> Result<Reading, BundleError> {
    Bundle::read(domain(), document.to_string().as_bytes())
}

fn shape(reading: &Reading) -> (usize, usize, Vec<IgnoredReason>) {
    let bundle = &reading.bundle;
    let ignored = reading
        .ignored
        .iter()
        .map(|ignored| ignored.reason)
        .collect();
    (
        bundle.x509_authorities().len(),
        bundle.jwt_authorities().len(),
        ignored,
    )
}

#[test]
fn a_published_bundle_has_the_members_of_the_standard_and_no_others() {
    let document = sample();
    let names = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&document), ["keys", "spiffe_sequence"]);
    let (x509, jwt) = (&document["keys"][0], &document["keys"][1]);
    assert_eq!(names(x509), ["crv", "kty", "use", "x", "x5c", "y"]);
    assert_eq!(names(jwt), ["crv", "kid", "kty", "use", "x", "y"]);
    assert_eq!(
        (&x509["use"], &jwt["use"]),
        (&json!("x509-svid"), &json!("jwt-svid"))
    );
    assert_eq!(x509["x5c"].as_array().unwrap().len(), 1);
}

#[test]
fn a_workload_api_bundle_has_jwt_keys_only() {
    let reading = read(&sample()).unwrap();
    let jwks: Value = serde_json::from_str(&reading.bundle.to_jwt_jwks_json()).unwrap();
    assert_eq!(jwks, json!({ "keys": [sample()["keys"][1]] }));
    assert_eq!(Bundle::new(domain()).to_jwt_jwks_json(), r#"{"keys":[]}"#);
}

#[test]
fn an_empty_bundle_is_a_bundle_and_missing_keys_are_not() {
    assert_eq!(
        shape(&read(&json!({ "keys": [] })).unwrap()),
        (0, 0, vec![])
    );
    for document in [json!({}), json!({ "keys": null }), json!({ "keys": {} })] {
        assert!(
            matches!(read(&document), Err(BundleError::KeysMissing)),
            "{document}"
        );
    }
    assert!(matches!(read(&json!([])), Err(BundleError::NotAnObject)));
}

#[test]
fn unknown_uses_and_key_types_are_left_aside_and_the_rest_is_read() {
    let with = |index: usize, change: Value| {
        let mut document = sample();
        let members = document["keys"][index].as_object_mut().unwrap();
        for (name, value) in change.as_object().unwrap() {
            match value {
                Value::Null => members.remove(name),
                _ => members.insert(name.clone(), value.clone()),
            };
        }
        shape(&read(&document).unwrap())
    };
    use IgnoredReason::*;
    assert_eq!(with(0, json!({ "use": "foo-svid" })), (0, 1, vec![Use]));
    assert_eq!(with(0, json!({ "use": "X509-SVID" })), (0, 1, vec![Use]));
    assert_eq!(with(0, json!({ "use": null })), (0, 1, vec![Use]));
    assert_eq!(with(0, json!({ "kty": "AKP" })), (0, 1, vec![KeyType]));
    assert_eq!(with(0, json!({ "kty": null })), (0, 1, vec![KeyType]));
    assert_eq!(with(0, json!({ "x5c": null })), (0, 1, vec![NoCertificate]));
    assert_eq!(with(0, json!({ "x5c": [] })), (0, 1, vec![NoCertificate]));
    assert_eq!(with(1, json!({ "use": "wit-svid" })), (1, 0, vec![Use]));
    assert_eq!(with(1, json!({ "kty": "RSA" })), (1, 0, vec![KeyType]));
    assert_eq!(with(1, json!({ "crv": "P-384" })), (1, 0, vec![KeyType]));
    assert_eq!(
        with(1, json!({ "alg": "ES256", "key_ops": [] })),
        (1, 1, vec![])
    );
}

#[test]
fn a_certificate_whose_key_no_jwk_expresses_is_left_aside() {
    assert_eq!(
        X509Authority::from_der(SECP256K1),
        Err(CertificateError::UnsupportedKey)
    );
    let mut document = sample();
    document["keys"][0]["x5c"][0] = json!(base64(SECP256K1));
    assert_eq!(
        shape(&read(&document).unwrap()),
        (0, 1, vec![IgnoredReason::KeyType])
    );
}

#[test]
fn of_several_certificates_the_first_counts() {
    let mut document = sample();
    document["keys"][0]["x5c"]
        .as_array_mut()
        .unwrap()
        .push(json!("not even base64"));
    let reading = read(&document).unwrap();
    assert_eq!(reading.bundle.x509_authorities()[0].der(), P256);
    assert_eq!(reading.bundle.x509_der(), P256);
}

#[test]
fn a_known_key_that_is_malformed_spoils_the_bundle() {
    let wrong = |pointer: &str, value: Value| {
        let mut document = sample();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match document.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
            members => members[name] = value,
        }
        read(&document).unwrap_err()
    };
    let other = json!(sample()["keys"][1]["x"]);
    assert!(matches!(
        wrong("/keys/0/x", other),
        BundleError::KeyMismatch { index: 0 }
    ));
    assert!(matches!(
        wrong("/keys/0/kty", json!("RSA")),
        BundleError::KeyMismatch { index: 0 }
    ));
    for text in [
        json!("####"),
        json!(7),
        json!(base64(P256).replace('=', "")),
    ] {
        let error = wrong("/keys/0/x5c/0", text);
        assert!(matches!(
            error,
            BundleError::Certificate {
                source: CertificateError::Base64,
                ..
            }
        ));
    }
    let error = wrong("/keys/0/x5c/0", json!(base64(&P256[..100])));
    assert!(matches!(
        error,
        BundleError::Certificate {
            source: CertificateError::Malformed,
            ..
        }
    ));
    let error = wrong("/keys/0/x5c/0", json!(base64(&[P256, P256].concat())));
    let BundleError::Certificate { source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(source, CertificateError::TrailingBytes);
    assert!(matches!(
        wrong("/keys/0", json!("key")),
        BundleError::KeyNotAnObject { index: 0 }
    ));
    assert!(matches!(
        wrong("/keys/0/d", json!("AA")),
        BundleError::Key { index: 0, .. }
    ));
    assert!(matches!(
        wrong("/keys/1/d", json!("AA")),
        BundleError::Key { index: 1, .. }
    ));
    assert!(matches!(
        wrong("/keys/1/y", json!("AA")),
        BundleError::Key { index: 1, .. }
    ));
    assert!(matches!(
        wrong("/keys/1/kid", json!("")),
        BundleError::KeyIdMissing
    ));
    assert!(matches!(
        wrong("/keys/1/kid", json!(1)),
        BundleError::Key { index: 1, .. }
    ));
}

#[test]
fn a_key_id_names_one_key() {
    let mut document = sample();
    let twin = document["keys"][1].clone();
    document["keys"].as_array_mut().unwrap().push(twin);
    assert!(matches!(read(&document), Err(BundleError::KeyIdTwice(id)) if id == "k1"));
    let mut document = sample();
    document["keys"][1].as_object_mut().unwrap().remove("kid");
    assert!(matches!(read(&document), Err(BundleError::KeyIdMissing)));
}

#[test]
fn the_sequence_is_exact_to_64_bits_and_nothing_but_an_integer() {
    let read = |text: &str| {
        Bundle::parse(
            domain(),
            format!(r#"{{"keys":[],"spiffe_sequence":{text}}}"#).as_bytes(),
        )
    };
    for sequence in [0, 1, (1 << 53) + 1, u64::MAX] {
        let bundle = read(&sequence.to_string()).unwrap();
        assert_eq!(bundle.sequence(), sequence);
        assert!(
            bundle
                .to_json()
                .contains(&format!(r#""spiffe_sequence":{sequence}"#))
        );
    }
    for text in [
        "-1",
        "1.5",
        "1.0",
        "1e3",
        "18446744073709551616",
        "\"1\"",
        "null",
    ] {
        assert!(matches!(read(text), Err(BundleError::Sequence)), "{text}");
    }
}

#[test]
fn a_refresh_hint_is_whole_seconds_and_never_zero() {
    let read = |text: &str| {
        Bundle::parse(
            domain(),
            format!(r#"{{"keys":[],"spiffe_refresh_hint":{text}}}"#).as_bytes(),
        )
    };
    assert_eq!(
        read("600").unwrap().refresh_hint(),
        Some(Duration::from_secs(600))
    );
    assert_eq!(read("0").unwrap().refresh_hint(), None);
    for text in ["-1", "1.5", "\"60\""] {
        assert!(
            matches!(read(text), Err(BundleError::RefreshHint)),
            "{text}"
        );
    }
    let short = Bundle::new(domain()).with_refresh_hint(Duration::from_millis(999));
    assert!(!short.to_json().contains("hint"));
    let long = Bundle::new(domain()).with_refresh_hint(Duration::from_millis(1999));
    assert!(long.to_json().contains(r#""spiffe_refresh_hint":1,"#));
}

#[test]
fn what_is_too_long_or_too_many_is_refused_and_so_is_a_member_twice() {
    let long = vec![b' '; MAX_BUNDLE + 1];
    assert!(matches!(
        Bundle::parse(domain(), &long),
        Err(BundleError::TooLong { .. })
    ));
    let many = json!({ "keys": vec![json!({}); MAX_KEYS + 1] });
    assert!(matches!(read(&many), Err(BundleError::TooManyKeys { .. })));
    assert_eq!(
        read(&json!({ "keys": vec![json!({}); MAX_KEYS] }))
            .unwrap()
            .ignored
            .len(),
        MAX_KEYS
    );
    let twice = br#"{"keys":[],"keys":[]}"#;
    assert!(matches!(
        Bundle::parse(domain(), twice),
        Err(BundleError::Json(_))
    ));
}

#[test]
fn the_same_certificate_is_in_once() {
    let mut document = sample();
    let twin = document["keys"][0].clone();
    document["keys"].as_array_mut().unwrap().push(twin);
    assert_eq!(shape(&read(&document).unwrap()), (1, 1, vec![]));
}

#[test]
fn only_a_change_of_sequence_leaves_the_content_the_same() {
    let bundle = read(&sample()).unwrap().bundle;
    assert!(bundle.same_content(&bundle.clone().with_sequence(8)));
    assert!(!bundle.same_content(&bundle.clone().with_refresh_hint(Duration::from_secs(9))));
    let mut more = bundle.clone();
    more.add_jwt_authority("k2", key(2)).unwrap();
    assert!(!bundle.same_content(&more));
}

#[test]
fn a_bundle_map_is_read_whole_or_not_at_all() {
    let map = |text: &str| BundleSet::parse(text.as_bytes());
    assert!(map(r#"{"trust_domains":{}}"#).unwrap().is_empty());
    assert!(matches!(map("{}"), Err(BundleError::TrustDomainsMissing)));
    assert!(matches!(
        map(r#"{"trust_domains":[]}"#),
        Err(BundleError::TrustDomainsMissing)
    ));
    let twice = r#"{"trust_domains":{"a":{"keys":[]},"a":{"keys":[]}}}"#;
    assert!(matches!(map(twice), Err(BundleError::Json(_))));
    let id = r#"{"trust_domains":{"spiffe://a":{"keys":[]}}}"#;
    assert!(matches!(map(id), Err(BundleError::TrustDomain { .. })));
    let half = r#"{"trust_domains":{"a":{"keys":[]},"b":{}}}"#;
    assert!(matches!(map(half), Err(BundleError::In { .. })));
}

#[test]
fn refresh_hints_neither_enter_nor_leave_a_bundle_map() {
    let hinted = r#"{"trust_domains":{"a":{"keys":[],"spiffe_refresh_hint":1}}}"#;
    let set = BundleSet::parse(hinted.as_bytes()).unwrap();
    assert_eq!(set.iter().next().unwrap().refresh_hint(), None);
    let set: BundleSet = [Bundle::new(domain()).with_refresh_hint(Duration::from_secs(60))]
        .into_iter()
        .collect();
    assert!(!set.to_json().contains("hint"));
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

prop_compose! {
    fn bundles()(
        name in "[a-z0-9._-]{1,20}",
        sequence: u64,
        hint in proptest::option::of(1u64..1 << 40),
        certificates in proptest::sample::subsequence(CERTIFICATES.to_vec(), 0..=4),
        keys in proptest::collection::btree_map("\\PC{1,8}", 1u8..=255, 0..4),
    ) -> Bundle {
        let mut bundle = Bundle::new(TrustDomain::parse(&name).unwrap()).with_sequence(sequence);
        if let Some(hint) = hint {
            bundle = bundle.with_refresh_hint(Duration::from_secs(hint));
        }
        for der in certificates {
            bundle.add_x509_authority(X509Authority::from_der(der).unwrap());
        }
        for (key_id, seed) in keys {
            bundle.add_jwt_authority(&key_id, key(seed.min(254))).unwrap();
        }
        bundle
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_bundle_survives_its_document(bundle in bundles()) {
        let text = bundle.to_json();
        let reading = Bundle::read(bundle.trust_domain().clone(), text.as_bytes()).unwrap();
        prop_assert_eq!(&reading.bundle, &bundle);
        prop_assert!(reading.ignored.is_empty());
        prop_assert_eq!(reading.bundle.to_json(), text);
    }

    #[test]
    fn a_set_survives_its_document(all in proptest::collection::vec(bundles(), 0..4)) {
        let set: BundleSet = all.into_iter().map(Bundle::without_refresh_hint).collect();
        prop_assert_eq!(BundleSet::parse(set.to_json().as_bytes()).unwrap(), set);
    }

    #[test]
    fn no_document_panics(text in r#"[{}\[\]":,a-z0-9 ]{0,60}"#, bytes: Vec<u8>) {
        for input in [text.as_bytes(), &bytes] {
            Bundle::parse(domain(), input).ok();
            BundleSet::parse(input).ok();
            X509Authority::from_der(input).ok();
        }
    }

    #[test]
    fn no_flipped_byte_panics(at in 0usize..400, value: u8) {
        let mut der = P256.to_vec();
        der[at] = value;
        X509Authority::from_der(&der).ok();
    }
}
