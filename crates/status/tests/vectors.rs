//! The bytes that don't change: `tests/vectors/status.json`, which Go and Python judge as well.
//!
//! `TASKMINT_VECTORS=write cargo test -p taskmint-status --test vectors` writes the file anew, which
//! takes a decision note.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests; clippy spares only the tests themselves"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use taskmint_status::checkpoint::{BucketDigest, Checkpoint, PackedMap};
use taskmint_status::extension::{
    HEAD_SIGNING_OID, HEAD_SIGNING_OID_DER, HEAD_SIGNING_OID_TEXT, TASK_BINDING_OID,
    TASK_BINDING_OID_DER, TASK_BINDING_OID_TEXT,
};
use taskmint_status::{
    Cause, ChainHash, Change, Delta, Generation, Head, LogId, Millis, Place, Record, Serial,
    SignerChain, Slot, Status, StatusMap, TaskBinding, WallTime, claim,
};

const BUCKET: u32 = 495_321;
const INDEX: u64 = 0x12_3456_789a;
const LOG: [u8; 8] = [0x10, 0x21, 0x32, 0x43, 0x54, 0x65, 0x76, 0x87];
const OLD_LOG: [u8; 8] = [0xa0; 8];
const TASK: [u8; 16] = [
    0x01, 0x90, 0x0a, 0x5d, 0xac, 0x96, 0x77, 0x4b, 0xbc, 0xce, 0xb3, 0x02, 0x09, 0x9a, 0x80, 0x57,
];
const ROOT: [u8; 16] = [
    0x01, 0x90, 0x0a, 0x5d, 0xac, 0x00, 0x70, 0x01, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01,
];
const TIME: u64 = 1_783_156_000_123;

fn second() -> Generation {
    Generation::FIRST.next().unwrap()
}

fn slot() -> Slot {
    Slot::new(BUCKET, INDEX).unwrap()
}

fn binding() -> TaskBinding {
    TaskBinding {
        place: slot().in_log(LogId(LOG)),
        task: TASK,
        root: ROOT,
    }
}

fn serial() -> Serial {
    Serial {
        generation: second(),
        slot: slot(),
        random: [0xff, 1, 2, 3, 4, 5, 6, 7, 8],
    }
}

fn records() -> Vec<Record> {
    let changes = [
        Change::Epoch,
        Change::Suspend {
            slot: slot(),
            task: TASK,
        },
        Change::Resume {
            slot: slot(),
            task: TASK,
        },
        Change::End {
            slot: slot(),
            task: TASK,
            cause: Cause::HOLDER_DIED,
        },
        Change::Floor {
            bucket: BUCKET - 25,
        },
    ];
    let record = |(sequence, change)| Record {
        sequence,
        epoch: 3,
        time: WallTime(TIME + sequence),
        change,
    };
    (1..).zip(changes).map(record).collect()
}

fn hashes() -> Vec<ChainHash> {
    let genesis = ChainHash::genesis(LogId(LOG), second());
    let chain = records().into_iter().scan(genesis, |hash, record| {
        *hash = hash.then(&record.encode());
        Some(*hash)
    });
    chain.collect()
}

fn signer() -> SignerChain {
    SignerChain {
        instance: [0x51; 16],
        counter: 77,
        hash: [0x52; 32],
    }
}

fn head(nonce: Option<[u8; 16]>, previous: Option<(LogId, Generation)>) -> Head {
    Head {
        log: LogId(LOG),
        generation: second(),
        previous,
        epoch: 3,
        sequence: 5,
        log_hash: *hashes().last().unwrap(),
        floor: BUCKET - 25,
        largest_limit_hours: 24,
        max_age: Millis(30_000),
        time: WallTime(TIME + 1_000),
        signer: signer(),
        nonce,
    }
}

fn heads() -> Vec<Head> {
    let previous = Some((LogId(OLD_LOG), Generation::FIRST));
    vec![head(None, None), head(Some([0x6e; 16]), previous)]
}

fn sets() -> BTreeMap<u32, Vec<(u64, Status)>> {
    use Status::{Ended, Suspended};
    let sparse = vec![(INDEX, Ended)];
    // Over the border of two chunks.
    let dense: Vec<_> = (0..100)
        .chain(16_300..16_500)
        .filter(|index| index % 7 == 0)
        .map(|index| (index, if index % 3 == 0 { Suspended } else { Ended }))
        .collect();
    BTreeMap::from([(BUCKET - 20, dense), (BUCKET, sparse)])
}

fn maps() -> BTreeMap<u32, StatusMap> {
    let map = |sets: Vec<(u64, Status)>| {
        let mut map = StatusMap::new();
        for (index, status) in sets {
            map.set(index, status).unwrap();
        }
        map
    };
    sets()
        .into_iter()
        .map(|(bucket, sets)| (bucket, map(sets)))
        .collect()
}

fn checkpoint() -> Checkpoint {
    let buckets = maps()
        .iter()
        .filter_map(|(bucket, map)| BucketDigest::of(*bucket, map))
        .collect();
    Checkpoint {
        log: LogId(LOG),
        generation: second(),
        epoch: 3,
        sequence: 5,
        log_hash: *hashes().last().unwrap(),
        floor: BUCKET - 25,
        time: WallTime(TIME + 1_500),
        signer: signer(),
        buckets,
    }
}

fn oid_vector(use_: &str, last: u64, arcs: &[u64], text: &str, der: &[u8]) -> Value {
    json!({ "use": use_, "last": last, "arcs": arcs, "text": text, "der": hex::encode(der) })
}

fn binding_input() -> Value {
    json!({
        "log": hex::encode(LOG), "task": hex::encode(TASK), "root": hex::encode(ROOT),
        "bucket": BUCKET, "index": INDEX,
    })
}

fn record_vector((record, hash): (Record, ChainHash)) -> Value {
    let (kind, slot, task, cause, name) = match record.change {
        Change::End { slot, task, cause } => (1, slot, task, cause.code(), Some(cause.name())),
        Change::Suspend { slot, task } => (2, slot, task, 0, None),
        Change::Resume { slot, task } => (3, slot, task, 0, None),
        Change::Floor { bucket } => (4, Slot::new(bucket, 0).unwrap(), [0; 16], 0, None),
        Change::Epoch => (5, Slot::new(0, 0).unwrap(), [0; 16], 0, None),
    };
    json!({
        "kind": kind, "cause": cause, "cause_name": name, "epoch": record.epoch,
        "sequence": record.sequence, "time": record.time.0, "bucket": slot.bucket(),
        "index": slot.index(), "task": hex::encode(task),
        "bytes": hex::encode(record.encode()), "hash": hex::encode(hash.0),
    })
}

fn signer_input() -> Value {
    let SignerChain {
        instance,
        counter,
        hash,
    } = signer();
    json!({ "instance": hex::encode(instance), "counter": counter, "hash": hex::encode(hash) })
}

fn head_vector(head: &Head) -> Value {
    let previous = head.previous.map(
        |(log, generation)| json!({ "log": hex::encode(log.0), "generation": generation.get() }),
    );
    json!({
        "log": hex::encode(head.log.0), "generation": head.generation.get(), "previous": previous,
        "epoch": head.epoch, "sequence": head.sequence, "log_hash": hex::encode(head.log_hash.0),
        "floor": head.floor, "largest_limit_hours": head.largest_limit_hours,
        "max_age": head.max_age.0, "time": head.time.0, "signer": signer_input(),
        "nonce": head.nonce.map(hex::encode), "bytes": hex::encode(head.encode().unwrap()),
    })
}

fn map_vector(bucket: u32, sets: &[(u64, Status)], map: &StatusMap) -> Value {
    let by = |wanted| -> Vec<u64> {
        sets.iter()
            .filter(|(_, status)| *status == wanted)
            .map(|(index, _)| *index)
            .collect()
    };
    json!({
        "bucket": bucket, "ended": by(Status::Ended), "suspended": by(Status::Suspended),
        "chunks": map.chunks().len(), "digest": hex::encode(map.digest()),
        "packed": hex::encode(first_packing(map)),
    })
}

/// Version 1 of the packed form, which is read and no longer written.
fn first_packing(map: &StatusMap) -> Vec<u8> {
    let mut packed = vec![1];
    packed.extend_from_slice(&(map.chunks().len() as u32).to_be_bytes());
    for (number, chunk) in map.chunks() {
        packed.extend_from_slice(&number.to_be_bytes());
        let mut rest = chunk.as_bytes().as_slice();
        while !rest.is_empty() {
            let ahead = &rest[..rest.len().min(128)];
            let zeros = ahead.iter().take_while(|octet| **octet == 0).count();
            // A lone zero costs less as a literal.
            let literal = rest[..rest.len().min(129)]
                .windows(2)
                .position(|pair| pair == [0, 0]);
            let (part, later) = match zeros {
                0 => rest.split_at(literal.unwrap_or(rest.len()).min(128)),
                zeros => rest.split_at(zeros),
            };
            let control = (part.len() - 1) as u8;
            if zeros == 0 {
                packed.push(control);
                packed.extend_from_slice(part);
            } else {
                packed.push(control | 0x80);
            }
            rest = later;
        }
    }
    packed
}

/// What is set: ranges, and positions below the first number whose squares leave less than the
/// third when divided by the second.
type Rule = (&'static [(u64, u64)], (u64, u64, u64));

const NONE: Rule = (&[], (0, 1, 0));

/// One map for each form of version 2: ended, suspended.
const PACKINGS: [(Rule, Rule); 6] = [
    ((&[], (50_000, 97, 9)), NONE),
    ((&[], (20_000, 9_973, 17)), (&[(90_000, 90_001)], (0, 1, 0))),
    ((&[], (10_000, 97, 88)), NONE),
    ((&[(70, 16_384), (40_000, 65_536)], (0, 1, 0)), NONE),
    (
        (
            &[(5, 905), (2_000, 2_901), (9_000, 9_700), (16_000, 16_384)],
            (0, 1, 0),
        ),
        (&[(100_000, 101_000), (103_000, 104_100)], (0, 1, 0)),
    ),
    (NONE, (&[], (16_384, 97, 48))),
];

fn set_by((ranges, (to, modulo, below)): Rule) -> impl Iterator<Item = u64> {
    let ranges = ranges.iter().flat_map(|(from, to)| *from..*to);
    ranges.chain((0..to).filter(move |position| position * position % modulo < below))
}

fn packing((ended, suspended): (Rule, Rule)) -> StatusMap {
    let mut map = StatusMap::new();
    for (rule, status) in [(ended, Status::Ended), (suspended, Status::Suspended)] {
        for index in set_by(rule) {
            map.set(index, status).unwrap();
        }
    }
    map
}

fn packing_vector(rules: (Rule, Rule)) -> Value {
    let rule = |(ranges, squares): Rule| json!({ "ranges": ranges, "squares": squares });
    let map = packing(rules);
    json!({
        "ended": rule(rules.0), "suspended": rule(rules.1), "chunks": map.chunks().len(),
        "digest": hex::encode(map.digest()), "packed": hex::encode(map.pack()),
    })
}

fn checkpoint_vector() -> Value {
    let checkpoint = checkpoint();
    json!({
        "log": hex::encode(checkpoint.log.0), "generation": checkpoint.generation.get(),
        "epoch": checkpoint.epoch, "sequence": checkpoint.sequence,
        "log_hash": hex::encode(checkpoint.log_hash.0), "floor": checkpoint.floor,
        "time": checkpoint.time.0, "signer": signer_input(),
        "bytes": hex::encode(checkpoint.encode().unwrap()),
        "digest": hex::encode(checkpoint.digest().unwrap()),
    })
}

fn vectors() -> Value {
    let serial = serial();
    let delta = Delta::new(records()[1..4].to_vec()).unwrap();
    let maps = maps();
    json!({
        "oid": {
            "uuid": "45db8993-a3df-46ff-8ffa-3e4f80400b0c",
            "under": [1, 2, 840, 113_556, 1, 8000, 2554],
            "arcs": [
                oid_vector("task binding", 1, TASK_BINDING_OID, TASK_BINDING_OID_TEXT, TASK_BINDING_OID_DER),
                oid_vector("head signing", 2, HEAD_SIGNING_OID, HEAD_SIGNING_OID_TEXT, HEAD_SIGNING_OID_DER),
            ],
        },
        "serial": {
            "generation": serial.generation.get(), "bucket": BUCKET, "index": INDEX,
            "random": hex::encode(serial.random), "bytes": hex::encode(serial.encode()),
        },
        "extension": { "input": binding_input(), "der": hex::encode(binding().to_der()) },
        "claim": {
            "input": binding_input(), "name": claim::TASK_CLAIM, "value": claim::to_value(&binding()),
        },
        "log": {
            "log": hex::encode(LOG), "generation": 2,
            "genesis": hex::encode(ChainHash::genesis(LogId(LOG), second()).0),
            "records": records().into_iter().zip(hashes()).map(record_vector).collect::<Vec<_>>(),
        },
        "delta": { "from": 2, "to": 4, "bytes": hex::encode(delta.encode()) },
        "heads": heads().iter().map(head_vector).collect::<Vec<_>>(),
        "maps": sets().iter().map(|(b, sets)| map_vector(*b, sets, &maps[b])).collect::<Vec<_>>(),
        "packings": PACKINGS.map(packing_vector),
        "checkpoint": checkpoint_vector(),
    })
}

fn file() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/status.json");
    if std::env::var("TASKMINT_VECTORS").is_ok_and(|what| what == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("{:#}\n", vectors())).unwrap();
    }
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bytes(vector: &Value, member: &str) -> Vec<u8> {
    hex::decode(vector[member].as_str().unwrap()).unwrap()
}

#[test]
fn the_bytes_are_those_of_the_first_day() {
    let (file, now) = (file(), vectors());
    for (name, vector) in now.as_object().unwrap() {
        assert_eq!(file[name], *vector, "`{name}` changed");
    }
    assert_eq!(
        file.as_object().unwrap().len(),
        now.as_object().unwrap().len()
    );
}

#[test]
fn the_bytes_of_the_first_day_are_still_read() {
    let file = file();
    assert_eq!(
        Serial::decode(&bytes(&file["serial"], "bytes")),
        Ok(serial())
    );
    assert_eq!(
        TaskBinding::from_der(&bytes(&file["extension"], "der")),
        Ok(binding())
    );
    assert_eq!(claim::from_value(&file["claim"]["value"]), Ok(binding()));
    assert_eq!(binding().agree_with(&serial()), Ok(()));
    let place = Place::new(LogId(LOG), BUCKET, INDEX).unwrap();
    assert_eq!(serial().place_in(LogId(LOG), second()), Ok(place));
    for (vector, record) in file["log"]["records"]
        .as_array()
        .unwrap()
        .iter()
        .zip(records())
    {
        assert_eq!(Record::decode(&bytes(vector, "bytes")), Ok(record));
    }
    let delta = Delta::decode(&bytes(&file["delta"], "bytes")).unwrap();
    assert_eq!(delta.records(), &records()[1..4]);
    for (vector, head) in file["heads"].as_array().unwrap().iter().zip(heads()) {
        assert_eq!(Head::decode(&bytes(vector, "bytes")), Ok(head));
    }
    let read = Checkpoint::decode(&bytes(&file["checkpoint"], "bytes")).unwrap();
    let beside = file["maps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|vector| PackedMap {
            bucket: vector["bucket"].as_u64().unwrap() as u32,
            bytes: bytes(vector, "packed"),
        });
    assert_eq!(read.unpack(&beside.collect::<Vec<_>>()), Ok(maps()));
    let packings = file["packings"].as_array().unwrap();
    for (vector, rules) in packings.iter().zip(PACKINGS) {
        let (map, packed) = (packing(rules), bytes(vector, "packed"));
        let chunks = map.chunks().len() as u32;
        assert_eq!(StatusMap::unpack(&packed, chunks), Ok(map));
    }
}
