//! What a verifier reads of tasks, from anyone who relays it or presents a credential.

use taskmint_status::{Checkpoint, Chunk, Delta, Head, Serial, StatusMap, TaskBinding, claim};

/// Records have one form.
pub fn status_delta(data: &[u8]) {
    let Ok(delta) = Delta::decode(data) else {
        return;
    };
    assert_eq!(delta.encode(), data);
    let numbers = delta.records().iter().map(|record| record.sequence);
    assert!(numbers.is_sorted_by(|a, b| a + 1 == *b));
}

/// So have heads.
pub fn status_head(data: &[u8]) {
    let Ok(head) = Head::decode(data) else { return };
    assert_eq!(head.encode().expect("what was decoded")[..], *data);
}

/// So have checkpoints.
pub fn status_checkpoint(data: &[u8]) {
    let Ok(checkpoint) = Checkpoint::decode(data) else {
        return;
    };
    assert_eq!(checkpoint.encode().expect("what was decoded"), data);
    assert!(
        checkpoint
            .buckets
            .iter()
            .all(|entry| entry.bucket >= checkpoint.floor)
    );
}

/// More chunks than this are more than a checkpoint may sign.
const MOST_CHUNKS: u32 = 65_536;

/// A map can be packed in several ways, but means one thing.
pub fn status_map(data: &[u8]) {
    let Some((count, _)) = data.get(1..).and_then(<[u8]>::split_first_chunk) else {
        return;
    };
    // An octet stands for up to 4 KiB: it is the signed number of chunks that bounds what a map
    // claims, so one beyond any checkpoint's is read as a small one.
    let count = u32::from_be_bytes(*count);
    if count > MOST_CHUNKS && StatusMap::unpack(data, 3).is_ok() {
        panic!("another number of chunks than is signed");
    }
    let count = count.min(MOST_CHUNKS);
    let Ok(map) = StatusMap::unpack(data, count) else {
        return;
    };
    let again = StatusMap::unpack(&map.pack(), count).expect("our own packing");
    assert_eq!(again.digest(), map.digest());
    assert!(again.keeps_ends_of(&map) && map.keeps_ends_of(&again));
    assert_eq!(again.pack(), map.pack());
    for (_, chunk) in map.chunks() {
        assert!(!chunk.is_all_valid());
        assert_eq!(Chunk::from_bytes(chunk.as_bytes()).as_ref(), Ok(chunk), "no status of 3");
    }
}

/// Serials have one form.
pub fn status_serial(data: &[u8]) {
    let Ok(serial) = Serial::decode(data) else {
        return;
    };
    assert_eq!(serial.encode()[..], *data);
}

/// The extension has one form, but for fields to come.
pub fn task_binding(data: &[u8]) {
    let Ok(binding) = TaskBinding::from_der(data) else {
        return;
    };
    let der = binding.to_der();
    assert_eq!(TaskBinding::from_der(&der), Ok(binding));
    assert!(der.len() < data.len() || der == data);
}

/// The claim says what the extension says.
pub fn task_claim(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else {
        return;
    };
    let Ok(binding) = claim::from_value(&value) else {
        return;
    };
    assert_eq!(claim::from_value(&claim::to_value(&binding)), Ok(binding));
    assert_eq!(TaskBinding::from_der(&binding.to_der()), Ok(binding));
}
