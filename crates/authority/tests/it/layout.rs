//! The layout of what is signed belongs to the signer's protocol.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use taskmint_mint::protocol::{LAYOUTS, VERSION};
use taskmint_mint::{CheckpointRequest, HeadRequest, Request, StatusListRequest, X509Request};
use taskmint_status::checkpoint::BucketDigest;
use taskmint_status::{Change, Record, WallTime};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::fixed::{Desk, LOG, desk};
use crate::lint::parse;

const VECTORS: &str = include_str!("../../../../tests/vectors/svid.json");

fn status_list(desk: &Desk, of: &X509Request) -> StatusListRequest {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let certificate = vectors["log_key"]["der"].as_str().unwrap();
    StatusListRequest {
        log: LOG,
        bucket: of.facts.place.bucket(),
        // One octet, as zlib has it.
        list: vec![0x78, 0x9c, 0x63, 0, 0, 0, 1, 0, 1],
        at: desk.now,
        expires_at: desk.now + std::time::Duration::from_secs(600),
        ttl_secs: 60,
        // The same each time, with its signature.
        certificate: BASE64_STANDARD.decode(certificate).unwrap(),
    }
}

/// The task of the leaf is suspended.
fn head(desk: &Desk, of: &X509Request) -> HeadRequest {
    let change = Change::Suspend {
        slot: of.facts.place.slot(),
        task: of.facts.task.octets(),
    };
    HeadRequest {
        log: LOG,
        generation: 1,
        epoch: 1,
        records: vec![Record {
            sequence: 1,
            epoch: 1,
            time: WallTime(desk.now.millis()),
            change,
        }],
        floor: 0,
        at: desk.now,
        max_age_ms: 30_000,
        nonce: Some([0x4e; 16]),
    }
}

fn checkpoint(desk: &Desk, of: &X509Request) -> CheckpointRequest {
    CheckpointRequest {
        log: LOG,
        sequence: 1,
        floor: 0,
        digests: vec![BucketDigest {
            bucket: of.facts.place.bucket(),
            chunks: 1,
            digest: [0xd1; 32],
        }],
        at: desk.now,
    }
}

/// What is signed, without the signature, which is another one each time.
fn to_be_signed() -> [(&'static str, Vec<u8>); 8] {
    let desk = desk();
    let (x509, jwt) = desk.requests();
    let batch = vec![
        Request::X509(x509.clone()),
        Request::Jwt(jwt),
        Request::Crl(desk.crl(&x509)),
        Request::StatusList(status_list(&desk, &x509)),
        Request::Head(head(&desk, &x509)),
        Request::Checkpoint(checkpoint(&desk, &x509)),
    ];
    let signed = desk.core.issue(batch).into_iter();
    let signed: Vec<_> = signed.map(|signed| signed.unwrap().bytes).collect();
    let [leaf, token, crl, list, head, checkpoint] = signed.try_into().unwrap();
    let (_, crl) = CertificateRevocationList::from_der(&crl).unwrap();
    [
        ("CA", certificate(&desk.ca.certificate)),
        (
            "certificate of the log's key",
            certificate(&desk.log_key.certificate),
        ),
        ("X.509-SVID", certificate(&leaf)),
        ("JWT-SVID", input(&token)),
        ("CRL", crl.tbs_cert_list.as_ref().to_vec()),
        ("status list", input(&list)),
        ("head", head),
        ("checkpoint", checkpoint),
    ]
}

fn certificate(der: &[u8]) -> Vec<u8> {
    parse(der).tbs_certificate.as_ref().to_vec()
}

/// A token's header and claims.
fn input(token: &[u8]) -> Vec<u8> {
    let end = token.iter().rposition(|octet| *octet == b'.').unwrap();
    token[..end].to_vec()
}

#[test]
fn another_layout_is_another_version_of_the_signers_protocol() {
    let built = to_be_signed().map(|(name, octets)| (name, hex::encode(digest(&SHA256, &octets))));
    let kept = LAYOUTS.map(|(name, digest)| (name, digest.to_owned()));
    assert!(
        built == kept,
        "what is signed has another layout than version {VERSION} of the signer's protocol says. A \
         server and a signer of different releases would take each other's credentials for forged: \
         raise `taskmint_mint::protocol::VERSION`, and write beside it as `LAYOUTS`: {built:#?}"
    );
}
