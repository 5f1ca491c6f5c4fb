//! What a front end that was taken over might have listed, and what openssl makes of a list.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;
use taskmint_mint::{
    CrlNumber, CrlReason, CrlRequest, KeyKind, Refusal, Request, Revoked, Signed, StatusListRequest,
};
use taskmint_model::Timestamp;
use taskmint_status::LogId;
use taskmint_testkit::pem;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::support::{CA_TTL, Desk, LOG, PUBLIC_URL, policy};

const SECOND: Duration = Duration::from_secs(1);

fn number(count: u64) -> CrlNumber {
    CrlNumber {
        generation: 1,
        epoch: 1,
        count,
    }
}

fn crl(desk: &Desk, count: u64, revoked: &[Revoked]) -> CrlRequest {
    CrlRequest {
        ca: desk.ca.id,
        number: number(count),
        this_update: desk.now() - 30 * SECOND,
        next_update: desk.now() + 600 * SECOND,
        revoked: revoked.to_vec(),
    }
}

fn sign(desk: &Desk, request: CrlRequest) -> Result<Signed, Refusal> {
    desk.sign(Request::Crl(request))
}

fn revoked(serial: &[u8], at: Timestamp, reason: CrlReason) -> Revoked {
    let serial = serial.try_into().unwrap();
    Revoked { serial, at, reason }
}

fn serial_of(leaf: &[u8]) -> Vec<u8> {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    leaf.raw_serial().to_vec()
}

#[test]
fn a_list_is_complete_and_has_no_distribution_point() {
    let desk = Desk::new();
    let leaf = desk.sign_x509(desk.x509(&desk.workload())).unwrap();
    let serial = serial_of(&leaf.bytes);
    let entry = revoked(&serial, desk.now(), CrlReason::CertificateHold);
    let signed = sign(&desk, crl(&desk, 7, &[entry])).unwrap();
    let (rest, list) = CertificateRevocationList::from_der(&signed.bytes).unwrap();
    assert!(rest.is_empty());
    let (_, ca) = X509Certificate::from_der(&desk.ca.certificate).unwrap();
    assert_eq!(list.issuer().as_raw(), ca.subject().as_raw());
    assert_eq!(list.version().unwrap().0, 1);
    let wanted = [&[1, 0, 0, 0, 1][..], &7_u64.to_be_bytes()].concat();
    assert_eq!(list.crl_number().unwrap().to_bytes_be(), wanted);
    let names: Vec<_> = list
        .extensions()
        .iter()
        .map(|e| e.oid.to_string())
        .collect();
    assert_eq!(names, ["2.5.29.35", "2.5.29.20"], "key id and number only");
    let ParsedExtension::AuthorityKeyIdentifier(key) = list.extensions()[0].parsed_extension()
    else {
        panic!("no authority key identifier");
    };
    assert_eq!(
        hex::encode(key.key_identifier.as_ref().unwrap().0),
        desk.ca.key_id
    );
    let entries: Vec<_> = list.iter_revoked_certificates().collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].raw_serial(), serial);
    assert_eq!(entries[0].reason_code().unwrap().1.0, 6);
}

#[test]
fn an_empty_list_has_no_entries_at_all() {
    let desk = Desk::new();
    let signed = sign(&desk, crl(&desk, 1, &[])).unwrap();
    let (_, list) = CertificateRevocationList::from_der(&signed.bytes).unwrap();
    assert_eq!(list.iter_revoked_certificates().count(), 0);
}

#[test]
fn a_number_never_goes_back() {
    let desk = Desk::new();
    sign(&desk, crl(&desk, 7, &[])).unwrap();
    for bad in [
        number(7),
        number(6),
        CrlNumber {
            epoch: 0,
            ..number(8)
        },
        CrlNumber {
            epoch: 2,
            ..number(8)
        },
        CrlNumber {
            generation: 2,
            ..number(8)
        },
        CrlNumber {
            generation: 0,
            ..number(8)
        },
    ] {
        let request = CrlRequest {
            number: bad,
            ..crl(&desk, 8, &[])
        };
        assert_eq!(
            sign(&desk, request).unwrap_err(),
            Refusal::CrlNumber,
            "{bad:?}"
        );
    }
    sign(&desk, crl(&desk, 8, &[])).unwrap();
}

#[test]
fn a_list_begins_now_and_ends_soon() {
    let desk = Desk::new();
    let cap = policy().max_list_age;
    let with = |from: Timestamp, to: Timestamp| {
        let request = CrlRequest {
            this_update: from,
            next_update: to,
            ..crl(&desk, 1, &[])
        };
        sign(&desk, request).unwrap_err()
    };
    let now = desk.now();
    for off in [now + 61 * SECOND, now - 61 * SECOND] {
        assert_eq!(with(off, now + 90 * SECOND), Refusal::Clock(off));
    }
    assert!(matches!(
        with(now, now + cap + SECOND),
        Refusal::Lifetime { .. }
    ));
    assert!(matches!(with(now, now), Refusal::Lifetime { .. }));
    assert!(matches!(
        with(now - 30 * SECOND, now - SECOND),
        Refusal::PastLimit { .. }
    ));
    // Not beyond its CA either.
    desk.clock
        .advance(Duration::from_secs(CA_TTL) - 300 * SECOND);
    let request = crl(&desk, 1, &[]);
    assert!(matches!(
        sign(&desk, request).unwrap_err(),
        Refusal::PastLimit { .. }
    ));
}

#[test]
fn nothing_but_serials_of_tasks_is_listed_and_each_once() {
    let desk = Desk::new();
    let now = desk.now();
    let reason = CrlReason::Superseded;
    let [one, two, other] = [(1, 1), (1, 2), (2, 1)].map(|(generation, last)| {
        let mut serial = [0; 20];
        (serial[0], serial[1], serial[19]) = (1, generation, last);
        serial
    });
    let list = |entries: &[Revoked]| sign(&desk, crl(&desk, 1, entries)).unwrap_err();
    let not_ascending = Refusal::List("serials do not ascend".into());
    let of = |serial: &[u8]| revoked(serial, now, reason);
    assert_eq!(list(&[of(&one), of(&one)]), not_ascending);
    assert_eq!(list(&[of(&two), of(&one)]), not_ascending);
    let no_task = Refusal::List("serial is no task's".into());
    assert_eq!(list(&[of(&other)]), no_task, "a generation to come");
    // A CA's own serial, and a log key's.
    for first in [2, 3] {
        let mut serial = one;
        serial[0] = first;
        assert_eq!(list(&[of(&serial)]), no_task);
    }
    let future = revoked(&one, now + 61 * SECOND, reason);
    assert_eq!(
        list(&[future]),
        Refusal::List("revocation lies in the future".into())
    );
    // None of it used the number up.
    sign(&desk, crl(&desk, 1, &[of(&one), of(&two)])).unwrap();
}

#[test]
fn a_ca_that_was_replaced_lists_until_it_is_retired_and_mints_no_more() {
    let desk = Desk::new();
    let next = desk.id();
    let kind = KeyKind::Ca { ttl_secs: CA_TTL };
    desk.core.prepare(kind, next, desk.now()).unwrap();
    let of_next = CrlRequest {
        ca: next,
        ..crl(&desk, 1, &[])
    };
    // Before its first certificate, so that everybody has a list by then.
    assert_eq!(sign(&desk, of_next).unwrap().authority, next);
    desk.core.activate(next).unwrap();
    assert_eq!(
        sign(&desk, crl(&desk, 1, &[])).unwrap().authority,
        desk.ca.id
    );
    let leaf = desk.sign_x509(desk.x509(&desk.workload())).unwrap();
    assert_eq!(leaf.authority, next);
    desk.core.retire(desk.ca.id).unwrap();
    let refused = Refusal::Authority(desk.ca.id);
    assert_eq!(sign(&desk, crl(&desk, 2, &[])).unwrap_err(), refused);
    for no_ca in [desk.jwt.id, desk.log.id, desk.grant.id] {
        let request = CrlRequest {
            ca: no_ca,
            ..crl(&desk, 3, &[])
        };
        assert_eq!(sign(&desk, request).unwrap_err(), Refusal::Authority(no_ca));
    }
}

/// Two leaves of one CA: one on the list, one not.
#[test]
fn openssl_refuses_what_is_listed_and_takes_what_is_not() {
    let desk = Desk::new();
    let leaf = || desk.sign_x509(desk.x509(&desk.workload())).unwrap().bytes;
    let (good, bad) = (leaf(), leaf());
    let entry = revoked(&serial_of(&bad), desk.now(), CrlReason::PrivilegeWithdrawn);
    let list = sign(&desk, crl(&desk, 1, &[entry])).unwrap().bytes;
    let none = sign(&desk, crl(&desk, 2, &[])).unwrap().bytes;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, label: &str, der: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem(label, der)).unwrap();
        path
    };
    let ca = write("ca.pem", "CERTIFICATE", &desk.ca.certificate);
    let (good, bad) = (
        write("good.pem", "CERTIFICATE", &good),
        write("bad.pem", "CERTIFICATE", &bad),
    );
    let (list, none) = (
        write("list.pem", "X509 CRL", &list),
        write("none.pem", "X509 CRL", &none),
    );
    let verify = |crl: Option<&Path>, leaf: &Path, at: Timestamp| {
        let mut command = Command::new("openssl");
        command.args([
            "verify",
            "-x509_strict",
            "-crl_check_all",
            "-purpose",
            "sslclient",
        ]);
        command
            .args(["-attime", &at.secs().to_string(), "-CAfile"])
            .arg(&ca);
        if let Some(crl) = crl {
            command.arg("-CRLfile").arg(crl);
        }
        let output = command.arg(leaf).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let now = desk.now();
    assert_eq!(verify(Some(&list), &good, now), (true, String::new()));
    let (accepted, said) = verify(Some(&list), &bad, now);
    assert!(!accepted && said.contains("certificate revoked"), "{said}");
    assert!(verify(Some(&none), &bad, now).0);
    assert!(!verify(None, &good, now).0, "no list, no yes");
    // Its own lifetime ended before the leaf's would: whoever goes on with it is told so.
    let (accepted, said) = verify(Some(&list), &good, now + 601 * SECOND);
    assert!(!accepted && said.contains("CRL has expired"), "{said}");
}

fn status_list(desk: &Desk) -> StatusListRequest {
    StatusListRequest {
        log: LOG,
        bucket: desk.now().hour(),
        list: vec![0x78, 0x9c, 3, 0, 0, 0, 0, 1],
        at: desk.now(),
        expires_at: desk.now() + 300 * SECOND,
        ttl_secs: 30,
        certificate: desk.log.certificate.clone(),
    }
}

#[test]
fn a_status_list_is_signed_by_the_logs_key_for_its_own_address() {
    let desk = Desk::new();
    let request = status_list(&desk);
    let signed = desk.sign(Request::StatusList(request.clone())).unwrap();
    assert_eq!(signed.authority, desk.log.id);
    let text = String::from_utf8(signed.bytes).unwrap();
    let parts: Vec<_> = text.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        panic!("{text}");
    };
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
    let input = format!("{header}.{claims}");
    let key = crate::support::public(&desk.log);
    key.verify(input.as_bytes(), &decode(signature)).unwrap();
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    assert_eq!(header["typ"], "statuslist+jwt");
    assert_eq!(header["alg"], "ES256");
    assert_eq!(
        header["x5c"][0],
        BASE64_STANDARD.encode(&desk.log.certificate)
    );
    let claims: Value = serde_json::from_slice(&decode(claims)).unwrap();
    let uri = format!("{PUBLIC_URL}/status/{LOG}/{}", request.bucket);
    assert_eq!(claims["sub"], uri);
    assert_eq!(claims["iat"], desk.now().secs());
    assert_eq!(claims["exp"], desk.now().secs() + 300);
    assert_eq!(claims["ttl"], 30);
    assert_eq!(claims["status_list"]["bits"], 2);
    let list = BASE64_URL_SAFE_NO_PAD.encode(&request.list);
    assert_eq!(claims["status_list"]["lst"], list);
}

#[test]
fn a_status_list_of_nothing_that_lives_is_refused() {
    let desk = Desk::new();
    let good = status_list(&desk);
    let refused = |request| desk.sign(Request::StatusList(request)).unwrap_err();
    let other = LogId([8; 8]);
    let request = StatusListRequest {
        log: other,
        ..good.clone()
    };
    assert_eq!(refused(request), Refusal::OtherLog(other));
    let no_place = Refusal::List("bucket has no live place".into());
    let bucket = good.bucket + 24 * 31;
    assert_eq!(
        refused(StatusListRequest {
            bucket,
            ..good.clone()
        }),
        no_place
    );
    let at = desk.now() + 61 * SECOND;
    assert_eq!(
        refused(StatusListRequest { at, ..good.clone() }),
        Refusal::Clock(at)
    );
    let expires_at = desk.now() + policy().max_list_age + SECOND;
    let long = refused(StatusListRequest {
        expires_at,
        ..good.clone()
    });
    assert!(matches!(long, Refusal::Lifetime { .. }));
    for ttl_secs in [0, 301] {
        let ttl = refused(StatusListRequest {
            ttl_secs,
            ..good.clone()
        });
        assert!(matches!(ttl, Refusal::Lifetime { .. }));
    }
    let certificate = desk.ca.certificate.clone();
    let stray = Refusal::List("certificate is another key's".into());
    assert_eq!(
        refused(StatusListRequest {
            certificate,
            ..good.clone()
        }),
        stray
    );
    let nowhere = Desk::with(taskmint_authority::Policy::new(
        crate::support::trust_domain(),
    ));
    let request = status_list(&nowhere);
    let unset = Refusal::List("address is not set".into());
    assert_eq!(
        nowhere.sign(Request::StatusList(request)).unwrap_err(),
        unset
    );
}
