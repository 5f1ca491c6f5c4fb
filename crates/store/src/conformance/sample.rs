//! Values to store, told apart by a number.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_model::{
    Actor, Audit, Authority, AuthorityId, Bar, Binding, Cause, CredentialKind, Decision, Denial,
    DenialId, EndTrace, Entry, EntryId, EntryTtls, Holder, Issuance, JoinToken, KeyType, Limits,
    Node, NodeMatch, NodeState, NodeSvid, Process, Selectors, State, Task, TaskId, TaskKind,
    TaskTimes, Timestamp,
};
use taskmint_status::{Place, Status};

use crate::{
    AuthorityRecord, AuthorityState, Change, Commit, Expect, KeyUse, RequestKey, RequestRecord,
    StatusChange, Store,
};

/// The hour in which everything happens.
pub const HOUR: u32 = 500_000;

/// The instant at which everything happens.
pub const NOW: Timestamp = Timestamp::from_secs(HOUR as u64 * 3600 + 60);

/// Where tasks have their limits, unless a test says otherwise.
pub const BUCKET: u32 = HOUR + 2;

fn octets(number: u64) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[8..].copy_from_slice(&number.to_be_bytes());
    octets
}

/// 32 octets.
pub fn hash(number: u64) -> [u8; 32] {
    let mut hash = [0xa5; 32];
    hash[24..].copy_from_slice(&number.to_be_bytes());
    hash
}

/// A task id.
pub fn task_id(number: u64) -> TaskId {
    TaskId::from_octets(octets(number))
}

/// An entry id.
pub fn entry_id(number: u64) -> EntryId {
    EntryId::from_octets(octets(number))
}

/// A SPIFFE ID in the samples' trust domain.
pub fn spiffe_id(path: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::parse("example.org").unwrap(), path).unwrap()
}

/// A node's SPIFFE ID.
pub fn node_id(number: u64) -> SpiffeId {
    spiffe_id(&format!("/taskmint/node/join-token/n{number}"))
}

/// A process.
pub fn process(number: u32) -> Process {
    Process {
        pid: number,
        start_time: 7,
        boot_id: [3; 16],
    }
}

fn selectors(of: &[&str]) -> Selectors {
    of.iter().map(|text| text.parse().unwrap()).collect()
}

/// A live root task in version 1 at `place`.
pub fn task_at(place: Place, number: u64) -> Task {
    let limit = Timestamp::from_secs(u64::from(place.bucket()) * 3600 + 10);
    Task {
        id: task_id(number),
        version: 1,
        root: task_id(number),
        parent: None,
        depth: 0,
        continues: None,
        place,
        kind: TaskKind::Explicit,
        entry: Some(entry_id(1)),
        spiffe_id: spiffe_id("/agent"),
        owner: "ana".to_owned(),
        purpose: format!("purpose {number}"),
        authority: Authority::default(),
        times: TaskTimes {
            opened: NOW,
            deadline: limit,
            limit,
        },
        limits: Limits {
            children: 8,
            depth: 2,
        },
        children: 0,
        holder: Holder {
            node: Some(node_id(1)),
            process: Some(process(1)),
        },
        binding: Binding::Process,
        state: State::Live,
        grant: vec![1, 2, 3],
    }
}

/// A live root task at a fresh place of `bucket`, not stored yet.
pub async fn task_in<S: Store>(store: &S, bucket: u32, number: u64) -> Task {
    task_at(store.place(bucket).await.unwrap(), number)
}

/// A task that was begun.
pub async fn begun<S: Store>(store: &S, number: u64) -> Task {
    let task = task_in(store, BUCKET, number).await;
    store.commit(begin(&task)).await.unwrap();
    task
}

/// The commit that begins a task, as the rules make it.
pub fn begin(task: &Task) -> Commit {
    Commit {
        expect: vec![Expect::NoTask(task.id)],
        changes: vec![
            Change::PutTask(Box::new(task.clone())),
            Change::Audit(audit("task.begin")),
        ],
    }
}

/// The task once it has ended.
pub fn ended(task: &Task) -> Task {
    let state = State::Ended {
        at: NOW,
        cause: Cause::COMPLETED,
        by: Actor::Holder,
        trace: EndTrace::default(),
    };
    Task {
        version: task.version + 1,
        state,
        ..task.clone()
    }
}

/// The commit that ends a task, as the rules make it.
pub fn end(task: &Task) -> Commit {
    Commit {
        expect: vec![Expect::Task(task.id, task.version)],
        changes: vec![
            Change::PutTask(Box::new(ended(task))),
            Change::Status(status(task, Status::Ended)),
            Change::Audit(audit("task.complete")),
        ],
    }
}

/// A change of a task's status bits.
pub fn status(task: &Task, status: Status) -> StatusChange {
    let cause = (status == Status::Ended).then_some(Cause::COMPLETED);
    StatusChange {
        place: task.place,
        task: task.id,
        status,
        cause,
        at: NOW,
    }
}

/// Something minted at a place.
pub fn issuance(place: Place, number: u64) -> Issuance {
    let mut serial = [9; 20];
    serial[12..].copy_from_slice(&number.to_be_bytes());
    Issuance {
        place,
        kind: if number.is_multiple_of(2) {
            CredentialKind::X509Svid
        } else {
            CredentialKind::JwtSvid
        },
        serial,
        key_hash: hash(number),
        expires_at: NOW + Duration::from_secs(600),
        authority: AuthorityId::from_octets(octets(1)),
        at: NOW,
    }
}

/// An entry in revision 1 with every field set.
pub fn entry(number: u64) -> Entry {
    Entry {
        id: entry_id(number),
        revision: 1,
        parent: if number.is_multiple_of(2) {
            NodeMatch::Node(node_id(number))
        } else {
            NodeMatch::Selectors(selectors(&["aws:tag:a:b"]))
        },
        spiffe_id: spiffe_id(&format!("/agent/{number}")),
        selectors: selectors(&["unix:uid:1000", "unix:path:/bin/true"]),
        ttls: EntryTtls {
            x509: Some(Duration::from_millis(60_500)),
            jwt: None,
        },
        key_type: KeyType::EcP256,
        dns_names: vec!["a.example".to_owned()],
        hint: "internal".to_owned(),
        federates_with: BTreeSet::from([TrustDomain::parse("other.example").unwrap()]),
        downstream: true,
        owner: "ana".to_owned(),
        class: "high".to_owned(),
        authority: authority(),
        implicit: true,
        descendants: true,
        watch: true,
        crl: true,
        max_limit: Some(Duration::from_secs(7200)),
        max_children: 4,
        max_depth: 3,
        expires_at: Some(NOW + Duration::from_secs(1)),
        labels: BTreeMap::from([("team".to_owned(), "payments".to_owned())]),
        created_by: "uid:0".to_owned(),
        created_at: NOW,
    }
}

/// An authority with scopes and audiences.
pub fn authority() -> Authority {
    Authority {
        scopes: BTreeSet::from(["payments:read".to_owned(), "payments:write".to_owned()]),
        audiences: BTreeSet::from(["ledger".to_owned()]),
    }
}

/// A node in version 1.
pub fn node(number: u64) -> Node {
    let svid = NodeSvid {
        task: task_id(number),
        serial: [4; 20],
        expires_at: NOW + Duration::from_secs(86_400),
        certificate: vec![0x30, 0x82],
        request: Some([6; 16]),
    };
    Node {
        id: node_id(number),
        version: 1,
        attestor: "join-token".to_owned(),
        selectors: selectors(&["node:zone:a"]),
        key_hash: hash(number),
        state: NodeState::Active,
        pending: Some(NodeSvid {
            request: None,
            ..svid.clone()
        }),
        current: svid,
        attested_at: NOW,
        seen_at: NOW,
    }
}

/// A join token that nobody has consumed.
pub fn token(number: u64) -> JoinToken {
    JoinToken {
        hash: hash(number),
        node: format!("n{number}"),
        selectors: selectors(&["node:zone:a"]),
        expires_at: NOW + Duration::from_secs(600),
        consumed_by: None,
        created_by: "uid:0".to_owned(),
        created_at: NOW,
    }
}

/// A request's name.
pub fn request_key(id: u64) -> RequestKey {
    RequestKey {
        via: node_id(1).to_string(),
        process: Some(process(5)),
        method: "begin".to_owned(),
        id: octets(id),
    }
}

/// A request that was answered.
pub fn request(id: u64, bucket: u32) -> RequestRecord {
    RequestRecord {
        key: request_key(id),
        digest: hash(id),
        task: task_id(id),
        bucket,
    }
}

/// A bar on a process of a node.
pub fn bar(node: u64, pid: u32) -> Bar {
    Bar {
        entry: entry_id(1),
        node: node_id(node),
        process: process(pid),
        task: task_id(1),
        at: NOW,
    }
}

/// A denial with every field set.
pub fn denial(number: u64) -> Denial {
    Denial {
        id: DenialId::from_octets(octets(number)),
        at: NOW,
        node: (number.is_multiple_of(2)).then(|| node_id(1)),
        who: "uid:1000".to_owned(),
        action: "task.begin".to_owned(),
        reason: "NO_ENTRY".to_owned(),
        message: "no entry matches".to_owned(),
        fix: "create one".to_owned(),
        selectors: selectors(&["unix:uid:1000"]),
        detail: vec!["entry 1: unix:uid:0".to_owned()],
    }
}

/// An audit record of an action.
pub fn audit(action: &str) -> Audit {
    Audit {
        at: NOW,
        who: "uid:1000".to_owned(),
        owner: "ana".to_owned(),
        task: Some(task_id(1)),
        action: action.to_owned().into(),
        resource: "task".to_owned(),
        decision: Decision::Allowed,
        reason: "".into(),
    }
}

/// An authority as it is kept; higher numbers are older.
pub fn authority_record(number: u64) -> AuthorityRecord {
    let kinds = [KeyUse::Ca, KeyUse::Jwt, KeyUse::Log, KeyUse::Grant];
    let states = [
        AuthorityState::Prepared,
        AuthorityState::Active,
        AuthorityState::Retired,
    ];
    let number_at = usize::try_from(number).unwrap();
    AuthorityRecord {
        id: AuthorityId::from_octets(octets(number)),
        usage: kinds[number_at % kinds.len()],
        state: states[number_at % states.len()],
        sealed: vec![1; 40],
        spki: vec![2; 91],
        certificate: vec![3; 300],
        key_id: format!("key{number}"),
        created_at: Timestamp::from_secs(1_000_000 - number),
        expires_at: NOW,
        activated_at: Some(NOW),
        retired_at: None,
    }
}
