//! A linter for certificates, by the numbers of SPIFFE's X.509 rules, and with no code of the
//! authority in it.

use p256::ecdsa::Signature;
use taskmint_id::{P256PublicKey, SpiffeId};
use taskmint_status::extension::{HEAD_SIGNING_OID_TEXT, TASK_BINDING_OID_TEXT};
use taskmint_status::{Serial, TaskBinding};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub(crate) fn parse(der: &[u8]) -> X509Certificate<'_> {
    let (rest, certificate) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty(), "something follows the certificate");
    certificate
}

pub(crate) fn uris<'a>(certificate: &X509Certificate<'a>) -> Vec<&'a str> {
    names(certificate, |name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

pub(crate) fn dns_names<'a>(certificate: &X509Certificate<'a>) -> Vec<&'a str> {
    names(certificate, |name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    })
}

fn names<'a>(
    certificate: &X509Certificate<'a>,
    pick: impl Fn(&GeneralName<'a>) -> Option<&'a str>,
) -> Vec<&'a str> {
    certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => Some(san),
            _ => None,
        })
        .flat_map(|san| {
            san.general_names
                .iter()
                .filter_map(&pick)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Whether an extension is there, and whether it is critical.
fn criticality(certificate: &X509Certificate<'_>, oid: &str) -> Option<bool> {
    let mut found = certificate
        .extensions()
        .iter()
        .filter(|e| e.oid.to_id_string() == oid);
    let critical = found.next().map(|extension| extension.critical);
    assert!(found.next().is_none(), "extension {oid} twice");
    critical
}

fn key_ids(certificate: &X509Certificate<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let (mut subject, mut authority) = (None, None);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => subject = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                authority = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
    }
    (subject, authority)
}

pub(crate) fn signed_by(certificate: &X509Certificate<'_>, key: &P256PublicKey) -> bool {
    let signature = Signature::from_der(&certificate.signature_value.data).unwrap();
    key.verify(certificate.tbs_certificate.as_ref(), &signature.to_bytes())
        .is_ok()
}

/// A CA by X509-07 to -18, -24 and -29.
pub(crate) fn lint_ca(der: &[u8], trust_domain: &str) {
    let certificate = parse(der);
    let constraints = certificate
        .basic_constraints()
        .unwrap()
        .expect("X509-14: constraints");
    assert!(
        constraints.critical && constraints.value.ca,
        "X509-07, X509-14"
    );
    assert_eq!(
        constraints.value.path_len_constraint,
        Some(0),
        "it signs leaves only"
    );
    let id = format!("spiffe://{trust_domain}");
    assert_eq!(
        uris(&certificate),
        [id],
        "X509-08, -09, -10: own id, no path"
    );
    let usage = certificate
        .key_usage()
        .unwrap()
        .expect("X509-17: key usage");
    assert!(usage.critical, "X509-17");
    assert!(
        usage.value.key_cert_sign() && usage.value.crl_sign(),
        "X509-18, and P22"
    );
    assert_eq!(
        usage.value.flags.count_ones(),
        2,
        "X509-29: no digitalSignature on a CA"
    );
    assert!(
        certificate.extended_key_usage().unwrap().is_none(),
        "X509-24: none by default"
    );
    assert!(
        certificate.subject().iter_rdn().next().is_some(),
        "RFC 5280 4.1.2.4: issuers are named"
    );
    assert!(key_ids(&certificate).0.is_some(), "RFC 5280 4.2.1.2");
    let key = P256PublicKey::from_spki_der(certificate.public_key().raw).unwrap();
    assert!(signed_by(&certificate, &key), "SVID-08: self-signed");
}

/// A leaf by X509-01 to -06, -12 to -23 and -29, and by P13.
pub(crate) fn lint_leaf(der: &[u8], ca_der: &[u8], id: &SpiffeId) -> (Serial, TaskBinding) {
    let (certificate, ca) = (parse(der), parse(ca_der));
    assert_eq!(certificate.version().0, 2, "version 3");
    let key = P256PublicKey::from_spki_der(ca.public_key().raw).unwrap();
    assert!(signed_by(&certificate, &key), "X509-25: by the CA");
    assert_eq!(
        certificate.issuer().as_raw(),
        ca.subject().as_raw(),
        "X509-25: names chain"
    );
    assert_eq!(key_ids(&certificate).1, key_ids(&ca).0, "RFC 5280 4.2.1.1");
    assert!(
        certificate.validity().not_after <= ca.validity().not_after,
        "outlives its CA"
    );

    assert_eq!(uris(&certificate), [id.as_str()], "X509-01");
    assert!(!id.is_root(), "X509-05");
    assert_eq!(certificate.subject().iter_rdn().count(), 0);
    assert_eq!(
        criticality(&certificate, "2.5.29.17"),
        Some(true),
        "X509-06"
    );

    let constraints = certificate
        .basic_constraints()
        .unwrap()
        .expect("X509-15: there");
    assert!(
        constraints.critical && !constraints.value.ca,
        "X509-12, X509-15"
    );
    assert_eq!(constraints.value.path_len_constraint, None);
    let usage = certificate.key_usage().unwrap().expect("X509-17");
    assert!(
        usage.critical && usage.value.digital_signature(),
        "X509-17, X509-19"
    );
    assert_eq!(
        usage.value.flags.count_ones(),
        1,
        "X509-20, X509-21: nothing else"
    );
    let extended = certificate
        .extended_key_usage()
        .unwrap()
        .expect("X509-22")
        .value;
    assert!(extended.server_auth && extended.client_auth, "X509-23");
    assert!(!extended.any && extended.other.is_empty());
    assert!(
        certificate.name_constraints().unwrap().is_none(),
        "X509-16: off"
    );

    assert_eq!(
        criticality(&certificate, TASK_BINDING_OID_TEXT),
        Some(false),
        "P13"
    );
    let extension = certificate
        .extensions()
        .iter()
        .find(|extension| extension.oid.to_id_string() == TASK_BINDING_OID_TEXT)
        .unwrap();
    let binding = TaskBinding::from_der(extension.value).unwrap();
    let serial = Serial::decode(certificate.raw_serial()).unwrap();
    binding
        .agree_with(&serial)
        .expect("P13: extension and serial agree");
    (serial, binding)
}

/// The log key's certificate: good for heads, and for nothing else (P15).
pub(crate) fn lint_log_key(der: &[u8], ca_der: &[u8]) {
    let (certificate, ca) = (parse(der), parse(ca_der));
    let key = P256PublicKey::from_spki_der(ca.public_key().raw).unwrap();
    assert!(signed_by(&certificate, &key));
    assert_eq!(certificate.issuer().as_raw(), ca.subject().as_raw());
    assert!(uris(&certificate).is_empty(), "no svid");
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(!extended.server_auth && !extended.client_auth && !extended.any);
    let other: Vec<_> = extended
        .other
        .iter()
        .map(|oid| oid.to_id_string())
        .collect();
    assert_eq!(other, [HEAD_SIGNING_OID_TEXT]);
    assert!(!certificate.basic_constraints().unwrap().unwrap().value.ca);
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert_eq!(usage.value.flags.count_ones(), 1);
    assert_ne!(
        certificate.raw_serial().first(),
        Some(&1),
        "no serial of a task"
    );
}
