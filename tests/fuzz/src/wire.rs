//! Messages of peers, past protobuf itself: what becomes of them at the edge.

use prost::Message;
use taskmint_id::TrustDomain;
use taskmint_model::{EntryId, Timestamp};
use taskmint_wire::{admin, entry_from_wire, entry_to_wire, task, task_from_wire};

/// An entry means the same after a round trip, and can be judged whatever is in it.
pub fn wire_entry(data: &[u8]) {
    let Ok(message) = admin::Entry::decode(data) else {
        return;
    };
    let id = EntryId::from_octets([1; 16]);
    let Ok(entry) = entry_from_wire(&message, id) else {
        return;
    };
    assert_eq!(
        entry_from_wire(&entry_to_wire(&entry), id).as_ref(),
        Ok(&entry)
    );
    let domain = TrustDomain::parse("example.org").expect("a trust domain");
    let judged = entry.validate(&domain, Timestamp::from_millis(1_764_000_000_000));
    assert!(!format!("{entry:?} {judged:?}").is_empty());
}

/// A task too; only who changed its state becomes a name with a prefix.
pub fn wire_task(data: &[u8]) {
    let Ok(message) = task::Task::decode(data) else {
        return;
    };
    let Ok(read) = task_from_wire(&message) else {
        return;
    };
    let mut again = task_from_wire(&task::Task::from(&read)).expect("our own writing");
    again.state.clone_from(&read.state);
    assert_eq!(again, read);
    assert!(!format!("{read:?}").is_empty());
}
