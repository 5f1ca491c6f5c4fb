//! Values: a format octet, then the record.

mod journal;
mod registry;
mod task;

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use taskmint_id::SpiffeId;
use taskmint_model::{Id, IdKind, Process, Selectors, Timestamp, millis};
use taskmint_status::{Chunk, LogId, Place, Record, Slot};
use taskmint_store::{Key, Ledger, LogIdentity, Promise, Row, StoreError};

use crate::keys::Table;

/// The generated records.
#[expect(unreachable_pub, reason = "generated, for this crate alone")]
pub(crate) mod pb {
    include!(concat!(env!("OUT_DIR"), "/taskmint.store.v1.rs"));
}

/// The one format there is.
const FORMAT: u8 = 1;

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad(&'static str);

type Read<T> = Result<T, Bad>;

/// The octets of a row.
pub(crate) fn encode(row: &Row) -> Vec<u8> {
    match row {
        Row::Ledger(ledger) => message(&pb::Ledger::from(ledger)),
        Row::Block(next) => message(&pb::Block { next: *next }),
        Row::Task(task) => message(&pb::Task::from(&**task)),
        Row::TaskId(slot) => message(&pb::Slot::from(*slot)),
        Row::Child => message(&pb::Empty {}),
        Row::Issuance(issuance) => message(&pb::Issuance::from(&**issuance)),
        Row::Status(chunk) => plain(chunk.as_bytes()),
        Row::Log(record) => plain(&record.encode()),
        Row::Request(request) => message(&pb::Request::from(&**request)),
        Row::Entry(entry) => message(&pb::Entry::from(&**entry)),
        Row::Node(node) => message(&pb::Node::from(&**node)),
        Row::Token(token) => message(&pb::JoinToken::from(&**token)),
        Row::Bar(bar) => message(&pb::Bar::from(&**bar)),
        Row::Denial(denial) => message(&pb::Denial::from(&**denial)),
        Row::DenialId(value) => message(&pb::Number { value: *value }),
        Row::Audit(line) => message(&pb::Audit::from(&**line)),
        Row::Authority(record) => message(&pb::AuthorityKey::from(&**record)),
        Row::Due(id) => plain(&id.octets()),
        Row::Held(slot) => message(&pb::Slot::from(*slot)),
        Row::Live(value) => message(&pb::Number { value: *value }),
    }
}

/// Reads the row of a key.
pub(crate) fn decode(key: &Key, octets: &[u8]) -> Result<Row, StoreError> {
    row(key, octets)
        .map_err(|Bad(why)| StoreError::Damaged(format!("the row of {key:?}: {why}").into()))
}

fn row(key: &Key, octets: &[u8]) -> Read<Row> {
    let octets = content(octets)?;
    Ok(match key {
        Key::Ledger => Row::Ledger(ledger(parse(octets)?)?),
        Key::Block(_) => Row::Block(parse::<pb::Block>(octets)?.next),
        Key::Task(_) => Row::Task(Arc::new(parse::<pb::Task>(octets)?.try_into()?)),
        Key::TaskId(_) => Row::TaskId(parse::<pb::Slot>(octets)?.try_into()?),
        Key::Child(..) => {
            parse::<pb::Empty>(octets)?;
            Row::Child
        }
        Key::Issuance(..) => Row::Issuance(Arc::new(parse::<pb::Issuance>(octets)?.try_into()?)),
        Key::Status(..) => {
            let chunk = Chunk::from_bytes(octets).map_err(|_| Bad("no status chunk"))?;
            Row::Status(Arc::new(chunk))
        }
        Key::Log(_) => {
            let record = Record::decode(octets).map_err(|_| Bad("no log record"))?;
            Row::Log(Arc::new(record))
        }
        Key::Request(_) => Row::Request(Arc::new(parse::<pb::Request>(octets)?.try_into()?)),
        Key::Entry(_) => Row::Entry(Arc::new(parse::<pb::Entry>(octets)?.try_into()?)),
        Key::Node(_) => Row::Node(Arc::new(parse::<pb::Node>(octets)?.try_into()?)),
        Key::Token(_) => Row::Token(Arc::new(parse::<pb::JoinToken>(octets)?.try_into()?)),
        Key::Bar(..) => Row::Bar(Arc::new(parse::<pb::Bar>(octets)?.try_into()?)),
        Key::Denial(_) => Row::Denial(Arc::new(parse::<pb::Denial>(octets)?.try_into()?)),
        Key::DenialId(_) => Row::DenialId(parse::<pb::Number>(octets)?.value),
        Key::Audit(_) => Row::Audit(Arc::new(parse::<pb::Audit>(octets)?.try_into()?)),
        Key::Authority(_) => {
            Row::Authority(Arc::new(parse::<pb::AuthorityKey>(octets)?.try_into()?))
        }
        Key::Due(..) => Row::Due(id(octets)?),
        Key::Held(..) => Row::Held(parse::<pb::Slot>(octets)?.try_into()?),
        Key::Live(_) => Row::Live(parse::<pb::Number>(octets)?.value),
    })
}

/// The bucket that a row found by its id expires with.
pub(crate) fn bucket(table: Table, octets: &[u8]) -> Option<u32> {
    let octets = content(octets).ok()?;
    match table {
        Table::TaskId | Table::Held => parse::<pb::Slot>(octets).ok().map(|slot| slot.bucket),
        Table::Request => parse::<pb::Request>(octets)
            .ok()
            .map(|request| request.bucket),
        _ => None,
    }
}

/// The octets of the log's identity.
pub(crate) fn encode_identity(identity: &LogIdentity) -> Vec<u8> {
    message(&pb::Identity {
        log: identity.log.0.to_vec(),
        generation: identity.generation.into(),
        epoch: identity.epoch,
        replaces: identity.replaces.map(|log| log.0.to_vec()),
    })
}

/// Reads the log's identity.
pub(crate) fn decode_identity(octets: &[u8]) -> Result<LogIdentity, StoreError> {
    let read = || {
        let identity = parse::<pb::Identity>(content(octets)?)?;
        Ok(LogIdentity {
            log: log(&identity.log)?,
            generation: identity
                .generation
                .try_into()
                .map_err(|_| Bad("generation"))?,
            epoch: identity.epoch,
            replaces: identity
                .replaces
                .map(|replaced| log(&replaced))
                .transpose()?,
        })
    };
    read().map_err(|Bad(why)| StoreError::Damaged(format!("the log's identity: {why}").into()))
}

fn message(record: &impl Message) -> Vec<u8> {
    let mut octets = Vec::with_capacity(1 + record.encoded_len());
    octets.push(FORMAT);
    octets.append(&mut record.encode_to_vec());
    octets
}

fn plain(content: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(1 + content.len());
    octets.push(FORMAT);
    octets.extend_from_slice(content);
    octets
}

fn content(octets: &[u8]) -> Read<&[u8]> {
    match octets.split_first() {
        Some((&FORMAT, content)) => Ok(content),
        Some(_) => Err(Bad("unknown format")),
        None => Err(Bad("empty")),
    }
}

fn parse<M: Message + Default>(octets: &[u8]) -> Read<M> {
    M::decode(octets).map_err(|_| Bad("no such record"))
}

fn array<const N: usize>(octets: &[u8], what: &'static str) -> Read<[u8; N]> {
    octets.try_into().map_err(|_| Bad(what))
}

fn id<K: IdKind>(octets: &[u8]) -> Read<Id<K>> {
    Id::try_from(octets).map_err(|_| Bad("id"))
}

fn octets<K: IdKind>(id: Id<K>) -> Vec<u8> {
    id.octets().to_vec()
}

fn log(octets: &[u8]) -> Read<LogId> {
    array(octets, "log id").map(LogId)
}

fn place(log_id: &[u8], slot: Option<pb::Slot>) -> Read<Place> {
    let slot: Slot = slot.ok_or(Bad("no place"))?.try_into()?;
    Ok(slot.in_log(log(log_id)?))
}

fn spiffe_id(text: &str) -> Read<SpiffeId> {
    SpiffeId::parse(text).map_err(|_| Bad("spiffe id"))
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn selectors(record: Option<pb::Selectors>) -> Read<Selectors> {
    let texts = record.unwrap_or_default().selectors;
    texts
        .iter()
        .map(|text| text.parse().map_err(|_| Bad("selector")))
        .collect()
}

fn to_selectors(selectors: &Selectors) -> pb::Selectors {
    pb::Selectors {
        selectors: selectors.iter().map(ToString::to_string).collect(),
    }
}

fn process(record: pb::Process) -> Read<Process> {
    let boot_id = array(&record.boot_id, "boot id")?;
    Ok(Process {
        pid: record.pid,
        start_time: record.start_time,
        boot_id,
    })
}

fn to_process(process: &Process) -> pb::Process {
    let Process {
        pid,
        start_time,
        boot_id,
    } = *process;
    pb::Process {
        pid,
        start_time,
        boot_id: boot_id.to_vec(),
    }
}

fn ledger(record: pb::Ledger) -> Read<Ledger> {
    Ok(Ledger {
        sequence: record.sequence,
        hash: array(&record.hash, "hash")?,
        trimmed: record.trimmed,
        floor: record.floor,
        audit: record.audit,
        audit_hash: array(&record.audit_hash, "audit hash")?,
        denials: record.denials,
        issuances: record.issuances,
        bundle: record.bundle,
        longest: record.longest.map(Duration::from_millis),
        promise: record.promise.map(|span| Promise {
            span: Duration::from_millis(span),
            earlier_until: at(record.promised_until.unwrap_or_default()),
        }),
    })
}

impl From<&Ledger> for pb::Ledger {
    fn from(ledger: &Ledger) -> Self {
        Self {
            sequence: ledger.sequence,
            hash: ledger.hash.to_vec(),
            trimmed: ledger.trimmed,
            floor: ledger.floor,
            audit: ledger.audit,
            audit_hash: ledger.audit_hash.to_vec(),
            denials: ledger.denials,
            issuances: ledger.issuances,
            bundle: ledger.bundle,
            longest: ledger.longest.map(millis),
            promise: ledger.promise.map(|promise| millis(promise.span)),
            promised_until: ledger.promise.map(|promise| promise.earlier_until.millis()),
        }
    }
}

impl From<Slot> for pb::Slot {
    fn from(slot: Slot) -> Self {
        Self {
            bucket: slot.bucket(),
            index: slot.index(),
        }
    }
}

impl TryFrom<pb::Slot> for Slot {
    type Error = Bad;
    fn try_from(slot: pb::Slot) -> Read<Self> {
        Self::new(slot.bucket, slot.index).map_err(|_| Bad("index"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use taskmint_store::conformance::sample;

    fn key_of_each_table() -> Vec<Key> {
        let slot = Slot::new(1, 2).unwrap();
        vec![
            Key::Ledger,
            Key::Block(1),
            Key::Task(slot),
            Key::TaskId(sample::task_id(1)),
            Key::Child(slot, slot),
            Key::Issuance(slot, 1),
            Key::Status(1, 1),
            Key::Log(1),
            Key::Request([1; 32]),
            Key::Entry(sample::entry_id(1)),
            Key::Node("spiffe://a/b".to_owned()),
            Key::Token([1; 32]),
            Key::Bar(
                "spiffe://a/b".to_owned(),
                sample::entry_id(1),
                sample::process(1),
            ),
            Key::Denial(1),
            Key::DenialId(sample::denial(1).id),
            Key::Audit(1),
            Key::Authority(sample::authority_record(1).id),
            Key::Due(1, sample::NOW, 1),
            Key::Held(String::new(), sample::task_id(1)),
            Key::Live(1),
        ]
    }

    proptest! {
        #[test]
        fn arbitrary_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            for key in key_of_each_table() {
                decode(&key, &octets).ok();
                decode(&key, &plain(&octets)).ok();
            }
            decode_identity(&plain(&octets)).ok();
        }
    }

    #[test]
    fn a_cut_or_foreign_value_is_damage_and_not_a_guess() {
        let task = sample::task_at(Slot::new(7, 8).unwrap().in_log(LogId([1; 8])), 1);
        let key = Key::Task(task.place.slot());
        let octets = encode(&Row::Task(Arc::new(task.clone())));
        assert_eq!(decode(&key, &octets).unwrap(), Row::Task(Arc::new(task)));
        let mut other = octets.clone();
        other[0] = 2;
        for bad in [&octets[..octets.len() - 1], &octets[..1], &[], &other] {
            let error = decode(&key, bad).unwrap_err();
            assert!(matches!(error, StoreError::Damaged(_)), "{error:?}");
        }
    }
}
