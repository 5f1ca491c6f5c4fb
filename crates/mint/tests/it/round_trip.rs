//! Whatever is said reads back as the same.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_mint::protocol::{
    Answer, Call, CheckKey, Given, MAX_BATCH, Numbered, Open, Opened, Unchecked, Wanted, digest,
};
use taskmint_mint::{
    CheckpointRequest, Class, CrlNumber, CrlReason, CrlRequest, Facts, Grant, HeadRequest,
    JwtRequest, KeyAlgorithm, KeyKind, LogKeyRequest, LogStart, Policy, Prepared, PublicKey,
    Refusal, Request, Revoked, Sealed, Signed, SignerTail, StatusListRequest, X509Request,
};
use taskmint_model::{AuthorityId, TaskId, Timestamp};
use taskmint_status::checkpoint::BucketDigest;
use taskmint_status::{Change, LogId, Place, Record, WallTime};

fn at() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_millis)
}

fn authority() -> impl Strategy<Value = AuthorityId> {
    any::<[u8; 16]>().prop_map(AuthorityId::from_octets)
}

fn log() -> impl Strategy<Value = LogId> {
    any::<[u8; 8]>().prop_map(LogId)
}

fn octets() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..80)
}

fn kind() -> impl Strategy<Value = KeyKind> {
    prop_oneof![
        any::<u64>().prop_map(|ttl_secs| KeyKind::Ca { ttl_secs }),
        Just(KeyKind::Jwt),
        any::<u64>().prop_map(|ttl_secs| KeyKind::Log { ttl_secs }),
        Just(KeyKind::Grant),
    ]
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Workload),
        Just(Class::Node),
        Just(Class::Server)
    ]
}

fn spiffe_id() -> impl Strategy<Value = SpiffeId> {
    "spiffe://[a-z]{1,8}(/[a-z0-9._-]{1,8}x){0,3}".prop_map(|id| SpiffeId::parse(&id).unwrap())
}

fn place() -> impl Strategy<Value = Place> {
    (log(), any::<u32>(), 0..1_u64 << 40).prop_filter_map("no place", |(log, bucket, index)| {
        Place::new(log, bucket, index).ok()
    })
}

fn facts() -> impl Strategy<Value = Facts> {
    let ids = (any::<[u8; 16]>(), any::<[u8; 16]>());
    (ids, spiffe_id(), place(), at(), class()).prop_map(
        |((task, root), spiffe_id, place, limit, class)| Facts {
            task: TaskId::from_octets(task),
            root: TaskId::from_octets(root),
            spiffe_id,
            place,
            limit,
            class,
        },
    )
}

fn x509() -> impl Strategy<Value = X509Request> {
    let names = vec("[a-z.]{0,9}", 0..4);
    (
        facts(),
        octets(),
        octets(),
        names,
        any::<[u8; 9]>(),
        at(),
        at(),
    )
        .prop_map(
            |(facts, grant, spki, dns_names, serial_random, not_before, not_after)| X509Request {
                facts,
                grant: Grant(grant),
                key: PublicKey {
                    algorithm: KeyAlgorithm::EcP256,
                    spki,
                },
                dns_names,
                serial_random,
                not_before,
                not_after,
            },
        )
}

fn jwt() -> impl Strategy<Value = JwtRequest> {
    let uri = option::of("[a-z:/]{1,20}");
    (
        facts(),
        octets(),
        vec(".{0,9}", 0..4),
        any::<[u8; 16]>(),
        at(),
        at(),
        uri,
    )
        .prop_map(
            |(facts, grant, audiences, jti, issued_at, expires_at, status_uri)| JwtRequest {
                facts,
                grant: Grant(grant),
                audiences,
                jti,
                issued_at,
                expires_at,
                status_uri,
            },
        )
}

fn record() -> impl Strategy<Value = Record> {
    let change = (place(), any::<[u8; 16]>(), any::<u32>(), 0..4_u8).prop_map(
        |(place, task, bucket, which)| {
            let slot = place.slot();
            match which {
                0 => Change::Suspend { slot, task },
                1 => Change::Resume { slot, task },
                2 => Change::Floor { bucket },
                _ => Change::Epoch,
            }
        },
    );
    (1..u64::MAX, 1..u32::MAX, any::<u64>(), change).prop_filter_map(
        "no record",
        |(sequence, epoch, time, change)| {
            let record = Record {
                sequence,
                epoch,
                time: WallTime(time),
                change,
            };
            Record::decode(&record.encode()).ok()
        },
    )
}

fn head() -> impl Strategy<Value = HeadRequest> {
    let numbers = (any::<u8>(), any::<u32>(), any::<u32>(), any::<u64>());
    (
        log(),
        numbers,
        vec(record(), 0..5),
        at(),
        option::of(any::<[u8; 16]>()),
    )
        .prop_map(
            |(log, (generation, epoch, floor, max_age_ms), records, at, nonce)| HeadRequest {
                log,
                generation,
                epoch,
                records,
                floor,
                at,
                max_age_ms,
                nonce,
            },
        )
}

fn checkpoint() -> impl Strategy<Value = CheckpointRequest> {
    let digest = (any::<u32>(), any::<u32>(), any::<[u8; 32]>());
    let digest = digest.prop_map(|(bucket, chunks, digest)| BucketDigest {
        bucket,
        chunks,
        digest,
    });
    (log(), any::<u64>(), any::<u32>(), vec(digest, 0..5), at()).prop_map(
        |(log, sequence, floor, digests, at)| CheckpointRequest {
            log,
            sequence,
            floor,
            digests,
            at,
        },
    )
}

fn crl() -> impl Strategy<Value = CrlRequest> {
    let reason = prop_oneof![
        Just(CrlReason::CessationOfOperation),
        Just(CrlReason::Superseded),
        Just(CrlReason::PrivilegeWithdrawn),
        Just(CrlReason::CertificateHold),
    ];
    let revoked = (any::<[u8; 20]>(), at(), reason);
    let revoked = revoked.prop_map(|(serial, at, reason)| Revoked { serial, at, reason });
    let number = (any::<u8>(), any::<u32>(), any::<u64>());
    (authority(), number, at(), at(), vec(revoked, 0..5)).prop_map(
        |(ca, (generation, epoch, count), this_update, next_update, revoked)| CrlRequest {
            ca,
            number: CrlNumber {
                generation,
                epoch,
                count,
            },
            this_update,
            next_update,
            revoked,
        },
    )
}

fn status_list() -> impl Strategy<Value = StatusListRequest> {
    (
        log(),
        any::<u32>(),
        octets(),
        at(),
        at(),
        any::<u64>(),
        octets(),
    )
        .prop_map(
            |(log, bucket, list, at, expires_at, ttl_secs, certificate)| StatusListRequest {
                log,
                bucket,
                list,
                at,
                expires_at,
                ttl_secs,
                certificate,
            },
        )
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![
        facts().prop_map(Wanted::Grant),
        x509().prop_map(|request| Wanted::Sign(Request::X509(request))),
        jwt().prop_map(|request| Wanted::Sign(Request::Jwt(request))),
        head().prop_map(|request| Wanted::Sign(Request::Head(request))),
        checkpoint().prop_map(|request| Wanted::Sign(Request::Checkpoint(request))),
        crl().prop_map(|request| Wanted::Sign(Request::Crl(request))),
        status_list().prop_map(|request| Wanted::Sign(Request::StatusList(request))),
    ]
}

fn sealed() -> impl Strategy<Value = Sealed> {
    (authority(), kind(), any::<bool>(), octets(), octets()).prop_map(
        |(id, kind, active, blob, certificate)| Sealed {
            id,
            kind,
            active,
            blob,
            certificate,
            spki: Vec::new(),
        },
    )
}

fn log_start() -> impl Strategy<Value = LogStart> {
    let numbers = (any::<u8>(), any::<u32>(), any::<u64>(), any::<u32>());
    (log(), numbers, option::of(log()), any::<[u8; 32]>(), at()).prop_map(
        |(log, (generation, epoch, sequence, floor), replaces, hash, at)| LogStart {
            log,
            generation,
            replaces,
            epoch,
            sequence,
            hash,
            floor,
            at,
        },
    )
}

fn call() -> impl Strategy<Value = Call> {
    let open = (any::<u32>(), any::<[u8; 32]>(), "[a-z.]{0,20}");
    prop_oneof![
        open.prop_map(|(version, check, trust_domain)| Call::Open(Open {
            version,
            check: CheckKey::new(check),
            trust_domain,
        })),
        (vec(sealed(), 0..4), log_start()).prop_map(|(keys, start)| Call::Load(keys, start)),
        (kind(), authority(), at()).prop_map(|(kind, id, now)| Call::Prepare(kind, id, now)),
        authority().prop_map(Call::Activate),
        authority().prop_map(Call::Retire),
        (authority(), authority())
            .prop_map(|(key, by)| Call::CertifyLogKey(LogKeyRequest { key, by })),
        vec(wanted(), 0..8).prop_map(Call::Batch),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let text = || ".{0,20}".prop_map(String::from);
    prop_oneof![
        Just(Refusal::Grant),
        spiffe_id().prop_map(Refusal::ForeignTrustDomain),
        (spiffe_id(), class()).prop_map(|(id, class)| Refusal::Name { id, class }),
        Just(Refusal::Key),
        any::<(u64, u64)>().prop_map(|(asked_secs, cap_secs)| Refusal::Lifetime {
            asked_secs,
            cap_secs
        }),
        (at(), at()).prop_map(|(not_after, limit)| Refusal::PastLimit { not_after, limit }),
        at().prop_map(Refusal::Clock),
        Just(Refusal::Audience),
        text().prop_map(Refusal::DnsName),
        text().prop_map(|text| Refusal::NoActiveKey(text.into())),
        authority().prop_map(Refusal::Authority),
        any::<(u64, u64)>().prop_map(|(at, to)| Refusal::Log { at, to }),
        text().prop_map(|text| Refusal::LogValue(text.into())),
        log().prop_map(Refusal::OtherLog),
        text().prop_map(Refusal::StatusUri),
        Just(Refusal::CrlNumber),
        text().prop_map(|text| Refusal::List(text.into())),
        text().prop_map(|text| Refusal::Sealed(text.into())),
        text().prop_map(Refusal::Failed),
        text().prop_map(|text| Refusal::Protocol(text.into())),
        Just(Refusal::Taken),
    ]
}

/// All results of an answer come from one instance.
fn results() -> impl Strategy<Value = Vec<Result<Given, Refusal>>> {
    let signed = (
        octets(),
        octets(),
        authority(),
        any::<u64>(),
        any::<[u8; 32]>(),
    );
    let signed = signed.prop_map(|(bytes, signature, authority, counter, hash)| {
        let instance = [7; 16];
        Given::Signed(Box::new(Signed {
            bytes,
            signature,
            authority,
            tail: SignerTail {
                instance,
                counter,
                hash,
            },
        }))
    });
    let result = prop_oneof![
        signed.prop_map(Ok),
        octets().prop_map(|grant| Ok(Given::Grant(Grant(grant)))),
        refusal().prop_map(Err),
    ];
    vec(result, 0..6)
}

fn answer() -> impl Strategy<Value = Answer> {
    let opened = (
        any::<[u8; 16]>(),
        any::<u32>(),
        ".{0,30}",
        option::of("[a-z:/]{1,20}"),
    );
    let prepared = (
        authority(),
        octets(),
        octets(),
        octets(),
        "[0-9a-f]{0,40}",
        at(),
    );
    prop_oneof![
        opened.prop_map(|(instance, workers, protection, public_url)| {
            let policy = Policy::new(TrustDomain::parse("example.org").unwrap());
            Answer::Opened(Opened {
                instance,
                workers,
                protection,
                policy: Policy {
                    public_url,
                    ..policy
                },
            })
        }),
        refusal().prop_map(Answer::Refused),
        Just(Answer::Done),
        prepared.prop_map(|(id, sealed, spki, certificate, key_id, expires_at)| {
            Answer::Prepared(Prepared {
                id,
                sealed,
                spki,
                certificate,
                key_id,
                expires_at,
            })
        }),
        octets().prop_map(Answer::Certificate),
        results().prop_map(Answer::Batch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_call_reads_back_as_it_was_said(id: u64, what in call()) {
        let said = Numbered { id, what };
        // Lifetimes of keys that are handed back are not said.
        let is_whole = !matches!(said.what, Call::Load(..) | Call::Open(_));
        let shown = format!("{:?}", said.what);
        let message = said.encode();
        let read = Numbered::<Call>::decode(&message).unwrap();
        prop_assert_eq!(read.id, id);
        if is_whole {
            prop_assert_eq!(format!("{:?}", read.what), shown);
        }
        prop_assert_eq!(read.encode(), message);
    }

    #[test]
    fn every_answer_reads_back_as_it_was_said(id: u64, what in answer(), asked in octets()) {
        let (check, asked) = (CheckKey::new([3; 32]), digest(&asked));
        let said = Numbered { id, what };
        let shown = format!("{:?}", said.what);
        let message = said.encode(&check, &asked);
        let unchecked = Unchecked::decode(Bytes::from(message.clone())).unwrap();
        prop_assert_eq!(unchecked.id, id);
        let refused = unchecked.refusal();
        let what = unchecked.checked(&check, &asked).unwrap();
        prop_assert_eq!(format!("{what:?}"), shown);
        prop_assert_eq!(refused.is_some(), matches!(what, Answer::Refused(_)));
        prop_assert_eq!(Numbered { id, what }.encode(&check, &asked), message);
    }

    #[test]
    fn no_bit_of_an_answer_can_change(what in answer(), at: usize, bit in 0..8_u8) {
        let (check, asked) = (CheckKey::new([3; 32]), digest(b"asked"));
        let mut message = Numbered { id: 1, what }.encode(&check, &asked);
        let at = at % message.len();
        message[at] ^= 1 << bit;
        if let Ok(unchecked) = Unchecked::decode(Bytes::from(message)) {
            unchecked.checked(&check, &asked).unwrap_err();
        }
    }

    #[test]
    fn an_answer_is_to_one_question_and_by_one_key(what in answer()) {
        let message = Numbered { id: 1, what }.encode(&CheckKey::new([3; 32]), &digest(b"asked"));
        let unchecked = || Unchecked::decode(Bytes::from(message.clone())).unwrap();
        unchecked().checked(&CheckKey::new([3; 32]), &digest(b"another")).unwrap_err();
        unchecked().checked(&CheckKey::new([4; 32]), &digest(b"asked")).unwrap_err();
    }

    #[test]
    fn any_octets_are_read_or_refused(message in vec(any::<u8>(), 0..300)) {
        if let Ok(read) = Numbered::<Call>::decode(&message) {
            let message = read.encode();
            let again = Numbered::<Call>::decode(&message).unwrap();
            prop_assert_eq!(again.encode(), message);
        }
        drop(Unchecked::decode(Bytes::from(message)));
    }
}

#[test]
fn a_batch_has_a_bound() {
    let facts = Facts {
        task: TaskId::from_octets([1; 16]),
        root: TaskId::from_octets([1; 16]),
        spiffe_id: SpiffeId::parse("spiffe://example.org/a").unwrap(),
        place: Place::new(LogId([1; 8]), 1, 1).unwrap(),
        limit: Timestamp::default(),
        class: Class::Workload,
    };
    let batch = |count| Numbered {
        id: 1,
        what: Call::Batch(vec![Wanted::Grant(facts.clone()); count]),
    };
    let read = |count| Numbered::<Call>::decode(&batch(count).encode());
    assert!(read(MAX_BATCH).is_ok());
    assert_eq!(
        read(MAX_BATCH + 1).unwrap_err().to_string(),
        "the message's number of requests makes no sense"
    );
}
