//! Frames that make no sense: each gets a reason, and none brings the process down.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use taskmint_mint::protocol::{Call, Numbered, Open, Wanted, digest};
use taskmint_mint::{CrlReason, JwtRequest, KeyKind, LogStart, Refusal, Request, Revoked};
use taskmint_model::{AuthorityId, SystemEntropy, Timestamp};
use tempfile::TempDir;

use crate::support::{
    MEMORY, Raw, Signer, append, check_chains, crl, head, journal, now, record, start, status_list,
    workload,
};

/// Refused for these words, after which the connection is over, and the process ends by itself.
fn refused_for(signer: &mut Signer, raw: &mut Raw, message: &[u8], words: &str) {
    let refusal = raw.refused(message);
    let text = refusal.to_string();
    assert!(matches!(refusal, Refusal::Protocol(_)), "{text}");
    assert!(text.contains(words), "{text}");
    assert!(raw.reply().is_none(), "and no more is answered");
    assert_eq!(signer.ended().code(), Some(1), "{words}");
    let said = signer.said();
    assert!(said.contains(words), "{said}");
}

#[test]
fn nothing_comes_before_hello() {
    let (mut signer, mut raw) = Signer::start(MEMORY);
    let message = raw.encoded(Call::Load(Vec::new(), start()));
    refused_for(&mut signer, &mut raw, &message, "before the one that opens");
}

#[test]
fn hello_is_said_once() {
    let (mut signer, mut raw) = Signer::start(MEMORY);
    raw.open();
    let hello = Call::Open(raw.hello());
    let message = raw.encoded(hello);
    refused_for(&mut signer, &mut raw, &message, "opened twice");
}

#[test]
fn a_server_of_another_version_or_trust_domain_is_told_so() {
    type Other = (&'static str, fn(&mut Open));
    let others: [Other; 2] = [
        ("must be of one release", |open| open.version = 2),
        ("trust domain `example.com`", |open| {
            open.trust_domain = "example.com".to_owned();
        }),
    ];
    for (words, change) in others {
        let (mut signer, mut raw) = Signer::start(MEMORY);
        let mut hello = raw.hello();
        change(&mut hello);
        let message = raw.encoded(Call::Open(hello));
        refused_for(&mut signer, &mut raw, &message, words);
    }
}

#[test]
fn frames_of_nonsense_are_refused_with_a_reason() {
    let grant = Numbered {
        id: 2,
        what: Call::Batch(vec![Wanted::Grant(workload())]),
    }
    .encode();
    let mut unknown_class = grant.clone();
    *unknown_class.last_mut().unwrap() = 9;
    let many = Numbered {
        id: 2,
        what: Call::Batch(vec![Wanted::Grant(workload()); 1025]),
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("encoding", vec![0xff; 64]),
        ("encoding", grant[..grant.len() - 1].to_vec()),
        ("kind", Vec::new()),
        ("kind", vec![8, 2]),
        ("number of requests", many.encode()),
        ("class", unknown_class),
        // Prepare of a kind of key that there is not.
        (
            "kind of key",
            [vec![8, 2, 0x22, 20, 8, 77, 0x1a, 16], vec![1; 16]].concat(),
        ),
        // Activation of an id that is too short.
        ("id", vec![8, 2, 0x2a, 3, 1, 2, 3]),
    ];
    for (words, message) in cases {
        let (mut signer, mut raw) = Signer::start(MEMORY);
        raw.open();
        refused_for(&mut signer, &mut raw, &message, words);
        assert_eq!(journal(&signer.journal).0, []);
    }
}

#[test]
fn a_frame_that_comes_again_is_refused_and_signs_nothing() {
    let (mut signer, mut raw) = Signer::start(MEMORY);
    raw.ready();
    let request = raw.x509(&workload());
    let message = raw.encoded(Call::Batch(vec![Wanted::Sign(Request::X509(request))]));
    raw.send(&message);
    raw.reply()
        .unwrap()
        .checked(&raw.check, &digest(&message))
        .unwrap();
    let signed = journal(&signer.journal);
    refused_for(&mut signer, &mut raw, &message, "came again");
    assert_eq!(journal(&signer.journal), signed);
}

#[test]
fn a_frame_too_long_is_refused_before_it_is_read() {
    let (mut signer, mut raw) = Signer::start(MEMORY);
    raw.ready();
    raw.stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
    let refusal = raw.reply().unwrap().refusal().unwrap();
    assert!(refusal.to_string().contains("longer than"), "{refusal}");
    assert!(raw.reply().is_none());
    assert_eq!(signer.ended().code(), Some(1));
}

#[test]
fn a_torn_frame_is_the_end_of_its_server() {
    for torn in [&[0_u8, 0][..], &[0, 0, 0, 9, 1, 2]] {
        let (mut signer, mut raw) = Signer::start(MEMORY);
        raw.ready();
        raw.stream.write_all(torn).unwrap();
        raw.stream.shutdown(Shutdown::Write).unwrap();
        assert!(raw.reply().is_none());
        assert_eq!(signer.ended().code(), Some(0));
    }
}

#[test]
fn loading_twice_is_refused_and_signing_goes_on() {
    let (_signer, mut raw) = Signer::start(MEMORY);
    raw.ready();
    let refusal = raw.done(Call::Load(Vec::new(), start())).unwrap_err();
    assert!(refusal.to_string().contains("loaded already"), "{refusal}");
    let request = raw.x509(&workload());
    raw.sign(Request::X509(request)).unwrap();
}

#[test]
fn the_farthest_numbers_are_refused_like_any_other() {
    let (_signer, mut raw) = Signer::start(MEMORY);
    let keys = raw.ready();
    let (good, good_token) = (raw.x509(&workload()), raw.jwt(&workload()));
    let far = Timestamp::from_millis(u64::MAX);
    let mut wanted = Vec::new();
    for at in [Timestamp::default(), Timestamp::MAX, far] {
        for (from, to) in [(at, at), (now(), at), (at, now())] {
            let mut request = good.clone();
            (request.not_before, request.not_after) = (from, to);
            wanted.push(Wanted::Sign(Request::X509(request)));
            wanted.push(Wanted::Sign(Request::Jwt(JwtRequest {
                issued_at: from,
                expires_at: to,
                ..good_token.clone()
            })));
            let mut list = crl(keys.ca.id, 1);
            (list.this_update, list.next_update) = (from, to);
            wanted.push(Wanted::Sign(Request::Crl(list)));
            let mut list = status_list(&keys.log);
            (list.at, list.expires_at, list.ttl_secs) = (from, to, u64::MAX);
            wanted.push(Wanted::Sign(Request::StatusList(list)));
        }
        // One that has passed may be granted: nothing can be minted under it.
        if at > now() {
            let mut facts = workload();
            facts.limit = at;
            wanted.push(Wanted::Grant(facts));
        }
        let mut list = crl(keys.ca.id, u64::MAX);
        list.revoked = vec![Revoked {
            serial: [0xff; 20],
            at,
            reason: CrlReason::Superseded,
        }];
        wanted.push(Wanted::Sign(Request::Crl(list)));
    }
    let mut list = status_list(&keys.log);
    list.bucket = u32::MAX;
    wanted.push(Wanted::Sign(Request::StatusList(list)));
    for answer in raw.batch(wanted) {
        answer.expect_err("it is far off");
    }
    let id = || AuthorityId::new(now(), &SystemEntropy);
    for at in [Timestamp::default(), Timestamp::MAX, far] {
        let call = Call::Prepare(KeyKind::Ca { ttl_secs: u64::MAX }, id(), at);
        raw.done(call).unwrap_err();
    }
    raw.sign(Request::X509(good)).unwrap();
}

#[test]
fn a_log_at_its_last_number_ends_there() {
    let (_signer, mut raw) = Signer::start(MEMORY);
    raw.open();
    let last = LogStart {
        sequence: u64::MAX,
        ..start()
    };
    raw.done(Call::Load(Vec::new(), last)).unwrap();
    for kind in [
        KeyKind::Ca { ttl_secs: 3600 },
        KeyKind::Log { ttl_secs: 3600 },
    ] {
        let prepared = raw.prepare(kind).unwrap();
        raw.done(Call::Activate(prepared.id)).unwrap();
    }
    for records in [vec![record(1, 1)], vec![record(u64::MAX, 1)]] {
        assert!(matches!(
            raw.sign(Request::Head(head(records))).unwrap_err(),
            Refusal::Log { .. }
        ));
    }
    raw.done(Call::Activate(AuthorityId::from_octets([1; 16])))
        .unwrap_err();
}

#[test]
fn a_server_that_does_not_read_gets_all_answers_when_it_does() {
    let (mut signer, mut raw) = Signer::start(MEMORY);
    raw.ready();
    let facts = workload();
    let request = Wanted::Sign(Request::X509(raw.x509(&facts)));
    raw.stream.set_nonblocking(true).unwrap();
    // As much as both directions take.
    let (mut rest, mut sent) = (Vec::new(), 0);
    'full: for _ in 0..4000 {
        let message = raw.encoded(Call::Batch(vec![request.clone(); 8]));
        rest.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        rest.extend_from_slice(&message);
        sent += 1;
        let mut patience = 0;
        while !rest.is_empty() {
            match raw.stream.write(&rest) {
                Ok(written) => drop(rest.drain(..written)),
                Err(_) if patience == 40 => break 'full,
                Err(_) => {
                    patience += 1;
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        }
    }
    assert!(!rest.is_empty(), "it took all of it");
    raw.stream.set_nonblocking(false).unwrap();
    let mut writer = raw.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&rest));
    for _ in 0..sent {
        assert!(raw.reply().unwrap().refusal().is_none());
    }
    writing.join().unwrap().unwrap();
    // And one that leaves without reading holds nobody up.
    let message = raw.encoded(Call::Batch(vec![request; 1024]));
    raw.send(&message);
    drop(raw);
    assert_eq!(signer.ended().code(), Some(0));
    check_chains(&journal(&signer.journal).0);
}

#[test]
fn a_second_server_is_turned_away_and_a_fresh_signer_follows() {
    let folder = TempDir::new().unwrap();
    let (path, journal) = (folder.path().join("socket"), folder.path().join("journal"));
    let listener = UnixListener::bind(&path).unwrap();
    let begin = || {
        let socket = listener.try_clone().unwrap().into();
        Signer::on(socket, append(&journal), &journal, MEMORY)
    };
    let connect = || Raw::new(UnixStream::connect(&path).unwrap());
    let mut signer = begin();
    let mut first = connect();
    let instance = first.open().instance;
    for _ in 0..3 {
        let mut second = connect();
        let hello = Call::Open(second.hello());
        let message = second.encoded(hello);
        // It may be turned away before it has said a word.
        drop(taskmint_mint::protocol::write_frame(
            &mut second.stream,
            &message,
        ));
        assert_eq!(second.reply().unwrap().refusal(), Some(Refusal::Taken));
        assert!(second.reply().is_none());
    }
    signer.says("count=3");
    first.done(Call::Load(Vec::new(), start())).unwrap();
    drop(first);
    assert_eq!(signer.ended().code(), Some(0));

    let mut third = connect();
    let _fresh = begin();
    assert_ne!(third.open().instance, instance);
}
