use super::*;
use taskmint_config::KeyKind;

#[test]
fn the_server_of_dev_listens_on_loopback_only() {
    let parent = tempfile::tempdir().unwrap();
    let kept = Folder::open(Some(&parent.path().join("it's \"here\""))).unwrap();
    let config = server_config("example.org", &kept).unwrap();
    for address in [config.listen, config.watch_listen, config.http_listen] {
        assert!(
            address.ip().is_loopback() && address.port() == 0,
            "{address}"
        );
    }
    assert_eq!(config.keys.kind, KeyKind::Sealed);
    assert!(config.data_dir.starts_with(kept.path()));
    assert!(config.admin.allowed_uids.is_empty() && config.admin.grants.is_empty());
    let fresh = Folder::open(None).unwrap();
    assert_eq!(
        server_config("example.org", &fresh).unwrap().keys.kind,
        KeyKind::Memory
    );
    assert!(server_config("no trust domain", &fresh).is_err());
}

#[test]
fn the_entry_of_dev_is_the_callers_own() {
    let entry = entry_of(Uid::from_raw(7), "ann", "example.org");
    assert_eq!(entry.spiffe_id, "spiffe://example.org/user/ann");
    assert_eq!(entry.selectors, ["unix:uid:7"]);
    let id = taskmint_model::EntryId::from_octets([1; 16]);
    let entry = taskmint_wire::entry_from_wire(&entry, id).unwrap();
    let trust_domain = taskmint_id::TrustDomain::parse("example.org").unwrap();
    let now = taskmint_model::Clock::now(&SystemClock);
    assert_eq!(entry.validate(&trust_domain, now), Ok(()));
}

#[test]
fn a_user_without_a_name_goes_by_its_number() {
    assert_eq!(name_of(Uid::from_raw(4_000_000_001)), "4000000001");
}
