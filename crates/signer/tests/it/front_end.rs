//! What a front end that was taken over might ask for (P23): each is refused, nothing is signed, and
//! the journal stays as it is.

use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_mint::protocol::Wanted;
use taskmint_mint::{
    CheckpointRequest, Class, Facts, Grant, HeadRequest, JwtRequest, Refusal, Request, X509Request,
};
use taskmint_model::{SystemEntropy, TaskId, Timestamp};
use taskmint_status::{Change, LogId, Place};

use crate::support::{
    EPOCH, LOG, MEMORY, PUBLIC_URL, Raw, Signer, facts, head, journal, now, record, secs, workload,
};

pub(crate) type Expected = fn(&Refusal) -> bool;
pub(crate) type Case = (&'static str, Wanted, Expected);

/// Asks for each alone, and for all at once.
pub(crate) fn all_refused(signer: &Signer, raw: &mut Raw, cases: Vec<Case>) {
    let before = journal(&signer.journal);
    for (name, wanted, expected) in &cases {
        let refusal = raw.batch(vec![wanted.clone()]).remove(0).expect_err(name);
        assert!(expected(&refusal), "{name}: {refusal:?}");
        assert_eq!(journal(&signer.journal), before, "{name}");
    }
    let all = raw.batch(cases.iter().map(|(_, wanted, _)| wanted.clone()).collect());
    for ((name, _, expected), answer) in cases.iter().zip(all) {
        assert!(expected(&answer.expect_err(name)), "{name}, among others");
    }
    assert_eq!(journal(&signer.journal), before);
}

pub(crate) fn certificate(request: X509Request) -> Wanted {
    Wanted::Sign(Request::X509(request))
}

pub(crate) fn token(request: JwtRequest) -> Wanted {
    Wanted::Sign(Request::Jwt(request))
}

pub(crate) fn by_grant(refusal: &Refusal) -> bool {
    *refusal == Refusal::Grant
}

pub(crate) fn by_key(refusal: &Refusal) -> bool {
    *refusal == Refusal::Key
}

pub(crate) fn by_name(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Name { .. })
}

pub(crate) fn by_limit(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::PastLimit { .. })
}

pub(crate) fn by_lifetime(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Lifetime { .. })
}

pub(crate) fn by_clock(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Clock(_))
}

pub(crate) fn by_dns_name(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::DnsName(_))
}

pub(crate) fn by_log(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Log { .. })
}

pub(crate) fn by_log_value(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::LogValue(_))
}

pub(crate) fn by_other_log(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::OtherLog(_))
}

pub(crate) fn by_list(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::List(_))
}

pub(crate) fn by_authority(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Authority(_))
}

pub(crate) fn by_crl_number(refusal: &Refusal) -> bool {
    *refusal == Refusal::CrlNumber
}

/// Facts that were never granted, or granted otherwise.
fn restated(raw: &mut Raw) -> Vec<Case> {
    let facts = workload();
    let good = raw.x509(&facts);
    let good_token = raw.jwt(&facts);
    let other = TaskId::new(now(), &SystemEntropy);
    let (bucket, index) = (facts.place.bucket(), facts.place.index());
    let place = |log, bucket, index| Place::new(log, bucket, index).unwrap();
    let foreign = TrustDomain::parse("example.com").unwrap();
    let foreign = SpiffeId::new(&foreign, "/billing").unwrap();
    let own = |path| SpiffeId::new(facts.spiffe_id.trust_domain(), path).unwrap();
    let with = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts.clone();
        change(&mut facts);
        facts
    };
    let restated: Vec<(&str, Facts)> = vec![
        ("another task", with(&|f| f.task = other)),
        ("another root", with(&|f| f.root = other)),
        ("another name", with(&|f| f.spiffe_id = own("/admin"))),
        ("a foreign name", with(&|f| f.spiffe_id = foreign.clone())),
        (
            "a server's name",
            with(&|f| f.spiffe_id = own("/taskmint/server/a")),
        ),
        ("a node's class", with(&|f| f.class = Class::Node)),
        ("a server's class", with(&|f| f.class = Class::Server)),
        (
            "another index",
            with(&|f| f.place = place(LOG, bucket, index + 1)),
        ),
        (
            "another bucket",
            with(&|f| f.place = place(LOG, bucket + 1, index)),
        ),
        (
            "another log",
            with(&|f| f.place = place(LogId([8; 8]), bucket, index)),
        ),
        ("a later limit", with(&|f| f.limit = f.limit + secs(1))),
    ];
    let mut cases = Vec::new();
    for (name, facts) in restated {
        let request = X509Request {
            facts: facts.clone(),
            ..good.clone()
        };
        cases.push((name, certificate(request), by_grant as Expected));
        let request = JwtRequest {
            facts,
            ..good_token.clone()
        };
        cases.push((name, token(request), by_grant));
    }
    let mut flipped = good.grant.0.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (name, grant) in [
        ("no grant", Vec::new()),
        ("half a grant", good.grant.0[..20].to_vec()),
        ("a flipped grant", flipped),
    ] {
        let grant = Grant(grant);
        let request = X509Request {
            grant,
            ..good.clone()
        };
        cases.push((name, certificate(request), by_grant));
    }
    cases
}

#[test]
fn facts_that_were_not_granted_get_nothing() {
    let (signer, mut raw) = Signer::start(MEMORY);
    raw.ready();
    let cases = restated(&mut raw);
    all_refused(&signer, &mut raw, cases);
}

#[test]
fn facts_that_may_not_be_get_no_grant() {
    let (signer, mut raw) = Signer::start(MEMORY);
    raw.ready();
    let foreign = TrustDomain::parse("example.com").unwrap();
    let good = workload();
    let end = taskmint_status::place::bucket_end(good.place.bucket()).0;
    let far = now() + secs(31 * 24 * 3600);
    let grant = |facts| Wanted::Grant(facts);
    let cases: Vec<Case> = vec![
        (
            "a foreign name",
            grant(Facts {
                spiffe_id: SpiffeId::new(&foreign, "/billing").unwrap(),
                ..good.clone()
            }),
            |refusal| matches!(refusal, Refusal::ForeignTrustDomain(_)),
        ),
        (
            "a server's name",
            grant(facts("/taskmint/server/a", Class::Workload)),
            by_name,
        ),
        (
            "a reserved name",
            grant(facts("/taskmint/else", Class::Workload)),
            by_name,
        ),
        (
            "a workload as a node",
            grant(facts("/billing", Class::Node)),
            by_name,
        ),
        (
            "a node as a server",
            grant(facts("/taskmint/node/join_token/a", Class::Server)),
            by_name,
        ),
        (
            "past the bucket",
            grant(Facts {
                limit: Timestamp::from_millis(end),
                ..good.clone()
            }),
            by_limit,
        ),
        (
            "too far ahead",
            grant(Facts {
                limit: far,
                place: Place::new(LOG, far.hour(), 1).unwrap(),
                ..good.clone()
            }),
            by_limit,
        ),
        (
            "another log",
            grant(Facts {
                place: Place::new(LogId([8; 8]), good.place.bucket(), 1).unwrap(),
                ..good
            }),
            by_other_log,
        ),
    ];
    all_refused(&signer, &mut raw, cases);
}

/// SubjectPublicKeyInfo of keys that are not taken.
fn bad_keys(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    let mut off = good.to_vec();
    *off.last_mut().unwrap() ^= 1;
    let rsa = "30820122300d06092a864886f70d01010105000382010f003082010a0282010100";
    vec![
        ("a point off the curve", off),
        ("no key", Vec::new()),
        ("a key with more behind", [good, &[0]].concat()),
        (
            "Ed25519",
            [hex("302a300506032b6570032100"), vec![7; 32]].concat(),
        ),
        (
            "P-384",
            [
                hex("3076301006072a8648ce3d020106052b8104002203620004"),
                vec![7; 96],
            ]
            .concat(),
        ),
        (
            "RSA",
            [hex(rsa), vec![0xc5; 256], hex("0203010001")].concat(),
        ),
    ]
}

#[test]
fn a_granted_task_gets_no_more_than_its_credentials() {
    let (signer, mut raw) = Signer::start(MEMORY);
    let keys = raw.ready();
    let good = raw.x509(&workload());
    let node = raw.x509(&facts("/taskmint/node/join_token/a", Class::Node));
    let good_token = raw.jwt(&workload());
    let with = |change: &dyn Fn(&mut X509Request)| {
        let mut request = good.clone();
        change(&mut request);
        certificate(request)
    };
    let mut cases: Vec<Case> = vec![
        (
            "over the cap",
            with(&|r| r.not_after = r.not_before + secs(3661)),
            by_lifetime,
        ),
        (
            "for no time",
            with(&|r| r.not_after = r.not_before),
            by_lifetime,
        ),
        (
            "for ever",
            with(&|r| r.not_after = Timestamp::MAX),
            by_lifetime,
        ),
        (
            "of yesterday",
            with(&|r| r.not_before = now() - secs(86_400)),
            by_clock,
        ),
        (
            "of tomorrow",
            with(&|r| r.not_before = now() + secs(86_400)),
            by_clock,
        ),
        (
            "past the limit",
            certificate(X509Request {
                not_after: node.facts.limit + secs(1),
                ..node.clone()
            }),
            by_limit,
        ),
        (
            "another name by DNS",
            with(&|r| r.dns_names = vec!["spiffe://example.org/admin".into()]),
            by_dns_name,
        ),
        (
            "a CA's name by DNS",
            with(&|r| r.dns_names = vec!["Taskmint CA".into()]),
            by_dns_name,
        ),
        (
            "names without end",
            with(&|r| r.dns_names = vec!["a".into(); 65]),
            by_dns_name,
        ),
        (
            "a CA's certificate as key",
            with(&|r| r.key.spki = keys.ca.certificate.clone()),
            by_key,
        ),
        (
            "a token over the cap",
            token(JwtRequest {
                expires_at: now() + secs(2 * 3600 - 60),
                ..good_token.clone()
            }),
            by_lifetime,
        ),
        (
            "a token for nobody",
            token(JwtRequest {
                audiences: Vec::new(),
                ..good_token.clone()
            }),
            |refusal| *refusal == Refusal::Audience,
        ),
        (
            "a token of tomorrow",
            token(JwtRequest {
                issued_at: now() + secs(3600),
                expires_at: now() + secs(3700),
                ..good_token.clone()
            }),
            by_clock,
        ),
    ];
    let (bucket, place) = (good_token.facts.place.bucket(), LOG);
    for uri in [
        "https://attacker.example/status".to_owned(),
        format!("{PUBLIC_URL}/status/{place}/{}", bucket + 1),
        format!("{PUBLIC_URL}.attacker.example/status/{place}/{bucket}"),
    ] {
        let status_uri = Some(uri);
        let request = JwtRequest {
            status_uri,
            ..good_token.clone()
        };
        cases.push(("a status elsewhere", token(request), |refusal| {
            matches!(refusal, Refusal::StatusUri(_))
        }));
    }
    for (name, spki) in bad_keys(&good.key.spki) {
        cases.push((name, with(&|r| r.key.spki = spki.clone()), by_key));
    }
    all_refused(&signer, &mut raw, cases);
    assert!(raw.sign(Request::X509(good)).is_ok());
    assert!(raw.sign(Request::Jwt(good_token)).is_ok());
}

#[test]
fn the_log_has_one_past() {
    let (signer, mut raw) = Signer::start(MEMORY);
    raw.ready();
    let first = HeadRequest {
        records: vec![record(1, 1), record(2, 2)],
        ..head(Vec::new())
    };
    let at = first.at;
    raw.sign(Request::Head(first)).unwrap();
    let with = |change: &dyn Fn(&mut HeadRequest)| {
        let mut request = head(Vec::new());
        change(&mut request);
        Wanted::Sign(Request::Head(request))
    };
    let floor = |bucket| taskmint_status::Record {
        change: Change::Floor { bucket },
        ..record(3, 0)
    };
    let old = |sequence| taskmint_status::Record {
        epoch: EPOCH - 1,
        ..record(sequence, 3)
    };
    let checkpoint = |sequence, floor, at| {
        Wanted::Sign(Request::Checkpoint(CheckpointRequest {
            log: LOG,
            sequence,
            floor,
            digests: Vec::new(),
            at,
        }))
    };
    let cases: Vec<Case> = vec![
        (
            "other records for a position",
            with(&|h| h.records = vec![record(2, 9)]),
            by_log,
        ),
        (
            "the first record again",
            with(&|h| h.records = vec![record(1, 1)]),
            by_log,
        ),
        ("a gap", with(&|h| h.records = vec![record(4, 4)]), by_log),
        (
            "records out of order",
            with(&|h| h.records = vec![record(3, 3), record(3, 4)]),
            by_log,
        ),
        (
            "an earlier time",
            with(&|h| h.at = at - secs(1)),
            by_log_value,
        ),
        ("yesterday", with(&|h| h.at = at - secs(86_400)), by_clock),
        ("tomorrow", with(&|h| h.at = at + secs(86_400)), by_clock),
        (
            "an earlier epoch",
            with(&|h| h.epoch = EPOCH - 1),
            by_log_value,
        ),
        (
            "a record of an earlier epoch",
            with(&|h| h.records = vec![old(3)]),
            by_log_value,
        ),
        (
            "another generation",
            with(&|h| h.generation = 2),
            by_log_value,
        ),
        (
            "a floor out of nowhere",
            with(&|h| h.floor = 7),
            by_log_value,
        ),
        (
            "a floor that its records contradict",
            with(&|h| h.records = vec![floor(9)]),
            by_log_value,
        ),
        (
            "another log",
            with(&|h| h.log = LogId([8; 8])),
            by_other_log,
        ),
        (
            "fresh for an hour",
            with(&|h| h.max_age_ms = 3_600_000),
            by_lifetime,
        ),
        (
            "fresh for ever",
            with(&|h| h.max_age_ms = u64::MAX),
            by_lifetime,
        ),
        ("never fresh", with(&|h| h.max_age_ms = 0), by_lifetime),
        ("a checkpoint before", checkpoint(1, 0, now()), by_log),
        ("a checkpoint ahead", checkpoint(3, 0, now()), by_log),
        (
            "a checkpoint's floor",
            checkpoint(2, 1, now()),
            by_log_value,
        ),
        (
            "a checkpoint's time",
            checkpoint(2, 0, at - secs(1)),
            by_log_value,
        ),
    ];
    all_refused(&signer, &mut raw, cases);
    raw.sign(Request::Head(head(vec![record(3, 3)]))).unwrap();
}
