//! What a front end that was taken over might ask of lists and of keys (P22, P23, P25).

use taskmint_mint::protocol::{Answer, Call, Wanted};
use taskmint_mint::{
    CrlReason, KeyKind, LogKeyRequest, Refusal, Request, Revoked, StatusListRequest,
};
use taskmint_model::{AuthorityId, SystemEntropy};
use taskmint_status::{Generation, LogId, Serial};

use crate::front_end::{
    Case, Expected, all_refused, by_authority, by_clock, by_crl_number, by_lifetime, by_list,
    by_other_log, certificate, token,
};
use crate::support::{
    CA_TTL, Keys, MEMORY, Signer, check_chains, crl, head, journal, now, secs, start, status_list,
    workload,
};
#[test]
fn lists_are_the_newest_and_last_not_long() {
    let (signer, mut raw) = Signer::start(MEMORY);
    let keys = raw.ready();
    raw.sign(Request::Crl(crl(keys.ca.id, 5))).unwrap();
    let cases = list_cases(&keys);
    all_refused(&signer, &mut raw, cases);
    raw.sign(Request::Crl(crl(keys.ca.id, 6))).unwrap();
    raw.sign(Request::StatusList(status_list(&keys.log)))
        .unwrap();
}

fn list_cases(keys: &Keys) -> Vec<Case> {
    let ca = keys.ca.id;
    let crl_with = |change: &dyn Fn(&mut taskmint_mint::CrlRequest)| {
        let mut request = crl(ca, 6);
        change(&mut request);
        Wanted::Sign(Request::Crl(request))
    };
    let list_with = |change: &dyn Fn(&mut StatusListRequest)| {
        let mut request = status_list(&keys.log);
        change(&mut request);
        Wanted::Sign(Request::StatusList(request))
    };
    let revoked = |serial, at| Revoked {
        serial,
        at,
        reason: CrlReason::PrivilegeWithdrawn,
    };
    let serial = Serial {
        generation: Generation::FIRST,
        slot: workload().place.slot(),
        random: [1; 9],
    }
    .encode();
    vec![
        (
            "a CRL of nobody",
            crl_with(&|r| r.ca = keys.jwt.id),
            by_authority,
        ),
        (
            "a CRL of an unknown CA",
            crl_with(&|r| r.ca = AuthorityId::new(now(), &SystemEntropy)),
            by_authority,
        ),
        (
            "the number again",
            crl_with(&|r| r.number.count = 5),
            by_crl_number,
        ),
        (
            "a number before",
            crl_with(&|r| r.number.count = 1),
            by_crl_number,
        ),
        (
            "another epoch's number",
            crl_with(&|r| r.number.epoch = 9),
            by_crl_number,
        ),
        (
            "a CRL for a day",
            crl_with(&|r| r.next_update = now() + secs(86_400)),
            by_lifetime,
        ),
        (
            "a CRL of yesterday",
            crl_with(&|r| r.this_update = now() - secs(86_400)),
            by_clock,
        ),
        (
            "a serial twice",
            crl_with(&|r| r.revoked = vec![revoked(serial, now()); 2]),
            by_list,
        ),
        (
            "the CA's serial",
            crl_with(&|r| r.revoked = vec![revoked([9; 20], now())]),
            by_list,
        ),
        (
            "revoked tomorrow",
            crl_with(&|r| r.revoked = vec![revoked(serial, now() + secs(86_400))]),
            by_list,
        ),
        (
            "a status list for a day",
            list_with(&|r| r.expires_at = now() + secs(86_400)),
            by_lifetime,
        ),
        (
            "a status list to keep",
            list_with(&|r| r.ttl_secs = 86_400),
            by_lifetime,
        ),
        (
            "a status list of another log",
            list_with(&|r| r.log = LogId([8; 8])),
            by_other_log,
        ),
        (
            "a status list of next year",
            list_with(&|r| r.bucket += 9000),
            by_list,
        ),
        (
            "a status list under another key",
            list_with(&|r| r.certificate = keys.ca.certificate.clone()),
            by_list,
        ),
    ]
}

#[test]
fn authorities_are_what_was_loaded_and_made() {
    let (signer, mut raw) = Signer::start(MEMORY);
    let keys = raw.ready();
    let before = journal(&signer.journal);
    let unknown = AuthorityId::new(now(), &SystemEntropy);
    let certify = |key, by| Call::CertifyLogKey(LogKeyRequest { key, by });
    let ca = KeyKind::Ca { ttl_secs: CA_TTL };
    let calls: Vec<(&str, Call, Expected)> = vec![
        ("activate nothing", Call::Activate(unknown), by_authority),
        ("retire nothing", Call::Retire(unknown), by_authority),
        ("retire what signs", Call::Retire(keys.ca.id), by_authority),
        (
            "certify nothing",
            certify(unknown, keys.ca.id),
            by_authority,
        ),
        (
            "certify by nothing",
            certify(keys.log.id, unknown),
            by_authority,
        ),
        (
            "certify a token key",
            certify(keys.jwt.id, keys.ca.id),
            by_authority,
        ),
        (
            "a CA in another's place",
            Call::Prepare(ca, keys.ca.id, now()),
            by_authority,
        ),
        (
            "a CA for ever",
            Call::Prepare(KeyKind::Ca { ttl_secs: u64::MAX }, unknown, now()),
            by_lifetime,
        ),
        (
            "a CA of next year",
            Call::Prepare(ca, unknown, now() + secs(86_400 * 365)),
            by_clock,
        ),
        (
            "the log set back",
            Call::Load(Vec::new(), start()),
            |refusal| matches!(refusal, Refusal::Failed(_)),
        ),
    ];
    for (name, call, expected) in calls {
        match raw.ask(call) {
            Answer::Refused(refusal) => assert!(expected(&refusal), "{name}: {refusal:?}"),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(journal(&signer.journal), before, "{name}");
    }
}

#[test]
fn a_key_that_is_not_active_signs_nothing() {
    let (signer, mut raw) = Signer::start(MEMORY);
    raw.open();
    raw.done(Call::Load(Vec::new(), start())).unwrap();
    // Made, and not activated.
    raw.prepare(KeyKind::Ca { ttl_secs: CA_TTL }).unwrap();
    raw.prepare(KeyKind::Jwt).unwrap();
    let grant = raw.prepare(KeyKind::Grant).unwrap();
    let none = |refusal: &Refusal| matches!(refusal, Refusal::NoActiveKey(_));
    assert!(none(&raw.grant(&workload()).unwrap_err()));
    raw.done(Call::Activate(grant.id)).unwrap();
    let good = raw.x509(&workload());
    let good_token = raw.jwt(&workload());
    let cases: Vec<Case> = vec![
        ("certificate", certificate(good), none),
        ("token", token(good_token), none),
        ("head", Wanted::Sign(Request::Head(head(Vec::new()))), none),
    ];
    all_refused(&signer, &mut raw, cases);
    match raw.prepare(KeyKind::Log { ttl_secs: CA_TTL }) {
        Err(refusal) => assert!(none(&refusal)),
        Ok(_) => panic!("certified by a CA that is not active"),
    }
    check_chains(&journal(&signer.journal).0);
}
