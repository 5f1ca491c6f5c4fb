//! The vectors that Go, Python and openssl judge are what this code makes.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use taskmint_id::{P256PublicKey, SpiffeId, jws::UnverifiedToken};
use taskmint_testkit::pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::fixed::{Fixed, fixed};
use crate::lint::{lint_ca, lint_leaf, lint_log_key, parse};

const DOCUMENT: &str = include_str!("../../../../tests/vectors/svid.json");

struct Vectors {
    document: Value,
    made: Fixed,
    now: Value,
}

impl Vectors {
    fn new() -> Self {
        let made = fixed();
        let now = made.document();
        Self {
            document: serde_json::from_str(DOCUMENT).unwrap(),
            made,
            now,
        }
    }

    fn der(&self, name: &str) -> Vec<u8> {
        BASE64_STANDARD
            .decode(self.document[name]["der"].as_str().unwrap())
            .unwrap()
    }
}

#[test]
fn certificates_differ_from_the_vectors_in_nothing_but_their_signatures() {
    let vectors = Vectors::new();
    let made = [
        ("ca", &vectors.made.ca.certificate),
        ("leaf", &vectors.made.leaf),
        ("log_key", &vectors.made.log_key.certificate),
    ];
    for (name, made) in made {
        let kept = vectors.der(name);
        assert_eq!(
            hex::encode(parse(&kept).tbs_certificate.as_ref()),
            hex::encode(parse(made).tbs_certificate.as_ref()),
            "{name}"
        );
    }
}

#[test]
fn the_crl_differs_from_the_vector_in_nothing_but_its_signature() {
    let vectors = Vectors::new();
    let kept = vectors.der("crl");
    let tbs = |der: &[u8]| {
        let (rest, list) = CertificateRevocationList::from_der(der).unwrap();
        assert!(rest.is_empty());
        hex::encode(list.tbs_cert_list.as_ref())
    };
    assert_eq!(tbs(&kept), tbs(&vectors.made.crl));
    let file = include_str!("../../../../tests/vectors/svid-crl.pem");
    assert_eq!(pem("X509 CRL", &kept), file);
}

#[test]
fn the_vectors_pass_the_linter() {
    let vectors = Vectors::new();
    let ca = vectors.der("ca");
    lint_ca(&ca, vectors.document["trust_domain"].as_str().unwrap());
    lint_log_key(&vectors.der("log_key"), &ca);
    let id = SpiffeId::parse(vectors.document["spiffe_id"].as_str().unwrap()).unwrap();
    let (serial, _) = lint_leaf(&vectors.der("leaf"), &ca, &id);
    assert_eq!(
        hex::encode(serial.encode()),
        vectors.document["leaf"]["serial"]
    );
}

#[test]
fn the_token_differs_from_the_vector_in_nothing_but_its_signature() {
    let vectors = Vectors::new();
    let text = vectors.document["jwt"]["token"].as_str().unwrap();
    let kept = UnverifiedToken::parse(text).unwrap();
    let made = UnverifiedToken::parse(&vectors.made.token).unwrap();
    assert_eq!(kept.signing_input, made.signing_input);
    let jwk = taskmint_id::Jwk::parse(vectors.document["jwt"]["jwk"].to_string().as_bytes());
    let key: P256PublicKey = jwk.unwrap().key;
    assert!(
        key.verify(kept.signing_input.as_bytes(), &kept.signature)
            .is_ok()
    );
}

#[test]
fn everything_else_in_the_document_is_as_it_is_made() {
    let Vectors {
        mut document,
        mut now,
        ..
    } = Vectors::new();
    for signed in [&mut document, &mut now] {
        for (name, member) in [
            ("ca", "der"),
            ("leaf", "der"),
            ("log_key", "der"),
            ("crl", "der"),
            ("jwt", "token"),
        ] {
            signed[name].as_object_mut().unwrap().remove(member);
        }
    }
    assert_eq!(document, now);
}

#[test]
fn the_files_for_openssl_hold_the_same_certificates() {
    let vectors = Vectors::new();
    let files = [
        ("ca", include_str!("../../../../tests/vectors/svid-ca.pem")),
        ("leaf", include_str!("../../../../tests/vectors/svid.pem")),
        (
            "log_key",
            include_str!("../../../../tests/vectors/svid-log-key.pem"),
        ),
    ];
    for (name, file) in files {
        assert_eq!(pem("CERTIFICATE", &vectors.der(name)), file, "{name}");
    }
    assert_eq!(
        vectors.der("leaf"),
        include_bytes!("../../../../tests/vectors/svid.der")
    );
}
