//! What a verifier reads of tasks, from anyone who relays it or presents a credential.

use taskmint_status::{Checkpoint, Delta, Head, Serial, StatusMap, TaskBinding, claim};

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

/// A map can be packed in several ways, but means one thing.
pub fn status_map(data: &[u8]) {
    let Some((count, _)) = data.get(1..).and_then(<[u8]>::split_first_chunk) else {
        return;
    };
    let count = u32::from_be_bytes(*count);
    let Ok(map) = StatusMap::unpack(data, count) else {
        return;
    };
    let again = StatusMap::unpack(&map.pack(), count).expect("our own packing");
    assert_eq!(again.digest(), map.digest());
    assert!(again.keeps_ends_of(&map) && map.keeps_ends_of(&again));
    assert_eq!(again.pack(), map.pack());
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
