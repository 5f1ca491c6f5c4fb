//! Messages of peers, past protobuf itself: what becomes of them at the edge.

use prost::Message;
use taskmint_id::TrustDomain;
use taskmint_model::{EntryId, Timestamp};
use taskmint_wire::{
    Denied, admin, authority_from_wire, binding_from_wire, denial_of, entry_from_wire,
    entry_to_wire, selectors_from_wire, task, task_from_wire,
};
use tonic::{Code, Status};

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

/// What a workload asks for when it begins a task: bounded, and the same after a round trip.
pub fn wire_begin(data: &[u8]) {
    let Ok(message) = task::BeginRequest::decode(data) else {
        return;
    };
    assert!(!format!("{:?}", binding_from_wire(&message)).is_empty());
    let Some(asked) = message.authority else {
        return;
    };
    if let Ok(selectors) = selectors_from_wire("scopes", &asked.scopes) {
        assert!(selectors.len() <= 256);
    }
    let Ok(authority) = authority_from_wire(&asked) else {
        return;
    };
    authority.validate().expect("what was accepted");
    let again = task::Authority {
        scopes: authority.scopes.iter().cloned().collect(),
        audiences: authority.audiences.iter().cloned().collect(),
    };
    assert_eq!(authority_from_wire(&again), Ok(authority));
}

/// What a peer says of its refusal is read the same from what we write of it.
pub fn wire_denial(data: &[u8]) {
    let status = Status::with_details(Code::PermissionDenied, "no", data.to_vec().into());
    let Some((reason, metadata)) = denial_of(&status) else {
        return;
    };
    let mut denied = Denied::new(status.code(), reason.as_str(), "no");
    if let Some(fix) = metadata.get("fix") {
        denied = denied.fix(fix.as_str());
    }
    let id = metadata.get("denial_id").and_then(|id| id.parse().ok());
    if let Some(id) = id {
        denied = denied.id(id);
    }
    let (again, kept) = denial_of(&denied.into()).expect("our own writing");
    assert_eq!(again, reason);
    let fix = metadata.get("fix").filter(|fix| !fix.is_empty());
    assert_eq!(kept.get("fix"), fix);
    assert_eq!(kept.contains_key("denial_id"), id.is_some());
}
