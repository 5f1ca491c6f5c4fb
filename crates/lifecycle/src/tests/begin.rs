//! What a begin gives where little is said, and what it refuses.

use taskmint_model::{Binding, EntryId, TaskKind, Timestamp};
use taskmint_status::{LogId, Place};

use super::world::{START, World, ask, authority, entry, secs, spiffe_id, task_id};
use crate::{Ask, begin};

#[test]
fn an_explicit_task_gets_what_its_entry_has_and_an_hour() {
    let mut world = World::new();
    let id = world.begin(ask(TaskKind::Explicit)).unwrap();
    let task = world.task(id);
    assert_eq!(task.times.deadline, START + secs(3600));
    assert_eq!(task.times.limit, START + secs(86_400));
    assert_eq!(task.authority, entry().authority);
    assert_eq!((task.limits.children, task.limits.depth), (3, 3));
    assert_eq!(
        (task.owner.as_str(), task.version, task.root),
        ("alice", 1, id)
    );
}

#[test]
fn implicit_node_and_server_tasks_last_to_their_limit() {
    for kind in [TaskKind::Implicit, TaskKind::Node, TaskKind::Server] {
        let mut world = World::new();
        let id = world.begin(ask(kind)).unwrap();
        let times = world.task(id).times;
        assert_eq!(times.deadline, times.limit);
    }
}

#[test]
fn a_short_limit_shortens_the_default_deadline() {
    let mut world = World::new();
    let id = world
        .begin(Ask {
            limit: Some(secs(60)),
            ..ask(TaskKind::Explicit)
        })
        .unwrap();
    assert_eq!(world.task(id).times.deadline, START + secs(60));
}

#[test]
fn a_child_under_another_entry_gets_what_both_allow() {
    let mut world = World::new();
    let narrowed = Ask {
        authority: Some(authority(&["a", "b"], &["x"])),
        owner: "bob".to_owned(),
        ..ask(TaskKind::Explicit)
    };
    let parent = world.begin(narrowed).unwrap();
    world.entry.id = EntryId::from_octets([8; 16]);
    world.entry.spiffe_id = spiffe_id("/helper");
    world.entry.authority = authority(&["b", "c"], &["x", "z"]);
    world.entry.max_depth = 1;
    let asked = Ask {
        entry: Some(world.entry.id),
        spiffe_id: spiffe_id("/helper"),
        ..ask(TaskKind::Explicit)
    };
    let wide = Ask {
        authority: Some(authority(&["c"], &[])),
        ..asked.clone()
    };
    let refused = world.begin_below(Some(parent), wide).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("scope `c` is beyond the authority of the parent task")
    );
    let wide = Ask {
        authority: Some(authority(&["a"], &[])),
        ..asked.clone()
    };
    let refused = world.begin_below(Some(parent), wide).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("scope `a` is beyond the authority of the entry")
    );

    let child = world.begin_below(Some(parent), asked).unwrap();
    let child = world.task(child);
    assert_eq!(child.authority, authority(&["b"], &["x"]));
    assert_eq!((child.limits.children, child.limits.depth), (3, 1));
    assert_eq!(
        (child.root, child.parent, child.depth),
        (parent, Some(parent), 1)
    );
    assert_eq!(child.owner, "bob");
    assert_eq!(world.task(parent).children, 1);
}

#[test]
fn a_child_without_an_entry_carries_its_parents_identity() {
    let mut world = World::new();
    let parent = world.begin(ask(TaskKind::Explicit)).unwrap();
    let asked = Ask {
        entry: None,
        ..ask(TaskKind::Explicit)
    };
    let child = world.begin_below(Some(parent), asked.clone()).unwrap();
    assert_eq!(world.task(child).entry, world.task(parent).entry);
    let other = Ask {
        spiffe_id: spiffe_id("/other"),
        ..asked
    };
    let refused = world.begin_below(Some(parent), other).unwrap_err();
    assert_eq!(refused.reason(), "SPIFFE_ID_MISMATCH");
}

#[test]
fn an_entry_that_expires_bounds_its_tasks() {
    let mut world = World::new();
    world.entry.expires_at = Some(START + secs(100));
    let id = world.begin(ask(TaskKind::Explicit)).unwrap();
    assert_eq!(world.task(id).times.limit, START + secs(100));
    world.now = START + secs(100);
    assert_eq!(
        world.begin(ask(TaskKind::Explicit)).unwrap_err().reason(),
        "ENTRY_EXPIRED"
    );
}

#[test]
fn bad_begins_say_why() {
    type Spoil = fn(&mut Ask, &mut World);
    let cases: [(Spoil, &str, &str); 14] = [
        (
            |ask, _| ask.entry = None,
            "ENTRY_MISSING",
            "no registration entry",
        ),
        (
            |_, world| world.entry.id = EntryId::from_octets([9; 16]),
            "ENTRY_MISSING",
            "no regist",
        ),
        (
            |ask, _| ask.spiffe_id = spiffe_id("/x"),
            "SPIFFE_ID_MISMATCH",
            "`spiffe://example.org/x`",
        ),
        (
            |ask, _| ask.ttl = Some(secs(0)),
            "NO_TIME",
            "at least a millisecond",
        ),
        (
            |ask, _| ask.limit = Some(secs(0)),
            "NO_TIME",
            "at least a millisecond",
        ),
        (
            |ask, _| ask.holder.process = None,
            "HOLDER_MISSING",
            "needs one that holds it",
        ),
        (
            |ask, _| ask.owner = "o".repeat(257),
            "TEXT_REFUSED",
            "owner has 257 bytes",
        ),
        (
            |ask, _| ask.purpose = "p".repeat(1025),
            "TEXT_REFUSED",
            "purpose has 1025 bytes",
        ),
        (
            |ask, _| ask.purpose = "\u{1b}[2J".into(),
            "TEXT_REFUSED",
            "control character",
        ),
        (
            |ask, _| ask.authority = Some(authority(&["d"], &[])),
            "BEYOND_AUTHORITY",
            "scope `d`",
        ),
        (
            |ask, _| ask.authority = Some(authority(&[], &["z"])),
            "BEYOND_AUTHORITY",
            "audience `z`",
        ),
        (
            |ask, _| ask.authority = Some(authority(&[""], &[])),
            "TEXT_REFUSED",
            "scope is empty",
        ),
        (
            |ask, world| (ask.kind, world.entry.implicit) = (TaskKind::Implicit, false),
            "IMPLICIT_NOT_ALLOWED",
            "no implicit tasks",
        ),
        (
            |ask, _| {
                (ask.kind, ask.binding) = (TaskKind::Implicit, Binding::None);
                ask.holder.process = None;
            },
            "HOLDER_MISSING",
            "needs one",
        ),
    ];
    for (spoil, reason, text) in cases {
        let (mut world, mut asked) = (World::new(), ask(TaskKind::Explicit));
        spoil(&mut asked, &mut world);
        let refused = world.begin(asked).unwrap_err();
        assert_eq!(refused.reason(), reason, "{refused}");
        assert!(refused.to_string().contains(text), "{refused}");
        assert!(world.tasks.is_empty());
    }
}

#[test]
fn a_place_in_another_bucket_is_refused() {
    let (world, asked) = (World::new(), ask(TaskKind::Explicit));
    let hour = (START + secs(86_400)).hour();
    for (bucket, fits) in [(hour - 1, false), (hour, true), (hour + 1, false)] {
        let place = Place::new(LogId([1; 8]), bucket, 0).unwrap();
        let (ask, entry) = (asked.clone(), Some(&world.entry));
        let begun = begin(ask, entry, None, task_id(0), place, &world.defaults, START);
        assert_eq!(begun.is_ok(), fits);
    }
}

#[test]
fn an_extension_needs_every_task_above() {
    let mut world = World::new();
    let root = world.begin(ask(TaskKind::Explicit)).unwrap();
    let middle = world
        .begin_below(Some(root), ask(TaskKind::Explicit))
        .unwrap();
    let child = world
        .begin_below(Some(middle), ask(TaskKind::Explicit))
        .unwrap();
    let (child, above) = (world.task(child), world.ancestors(child));
    let deadline: Timestamp = child.times.deadline;
    assert!(crate::extend(child, &above, deadline, START).is_ok());
    for missing in 0..2 {
        let mut above = above.clone();
        above.remove(missing);
        let refused = crate::extend(child, &above, deadline, START).unwrap_err();
        assert_eq!(refused.reason(), "TREE_CHANGED");
    }
}
