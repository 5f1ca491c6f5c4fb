//! What a begin would give, once every rule has been asked: each dimension is the narrowest of
//! what was asked for, the entry, the parent and the trust domain.

use std::time::Duration;

use taskmint_id::Kind;
use taskmint_model::{
    Authority, Binding, Entry, Limits, Task, TaskKind, TaskTimes, Timestamp, bounded,
};

use crate::lifetime::may_mint;
use crate::{Ask, Defaults, Refusal};

/// The longest owner, in bytes.
const MAX_OWNER: usize = 256;
/// The longest purpose, in bytes.
const MAX_PURPOSE: usize = 1024;

/// What a begin gives.
pub(crate) struct Plan {
    pub(crate) times: TaskTimes,
    pub(crate) authority: Authority,
    pub(crate) limits: Limits,
    pub(crate) owner: String,
}

impl Plan {
    pub(crate) fn new(
        ask: &Ask,
        entry: Option<&Entry>,
        parent: Option<&Task>,
        defaults: &Defaults,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        if let Some(parent) = parent {
            check_parent(ask, parent, now)?;
        }
        check_identity(ask, entry, parent, now)?;
        check_holder(ask)?;
        bounded("owner", &ask.owner, MAX_OWNER)?;
        bounded("purpose", &ask.purpose, MAX_PURPOSE)?;
        Ok(Self {
            times: plan_times(ask, entry, parent, defaults, now)?,
            authority: plan_authority(ask, entry, parent)?,
            limits: plan_limits(ask, entry, parent)?,
            owner: plan_owner(ask, entry, parent),
        })
    }
}

fn is_workload(kind: TaskKind) -> bool {
    matches!(kind, TaskKind::Explicit | TaskKind::Implicit)
}

/// The parent is live, may delegate, and has room.
fn check_parent(ask: &Ask, parent: &Task, now: Timestamp) -> Result<(), Refusal> {
    if ask.kind != TaskKind::Explicit || !is_workload(parent.kind) {
        let (parent, child) = (parent.kind.name(), ask.kind.name());
        return Err(Refusal::DelegationNotAllowed { parent, child });
    }
    may_mint(parent, now)?;
    if parent.limits.depth == 0 || parent.depth == u8::MAX {
        return Err(Refusal::TooDeep { max: 0 });
    }
    if parent.children >= parent.limits.children {
        return Err(Refusal::TooManyChildren {
            max: parent.limits.children,
        });
    }
    Ok(())
}

/// The name fits the kind, and the entry (or the parent) carries it.
fn check_identity(
    ask: &Ask,
    entry: Option<&Entry>,
    parent: Option<&Task>,
    now: Timestamp,
) -> Result<(), Refusal> {
    let named = match ask.kind {
        TaskKind::Node => Kind::Node,
        TaskKind::Server => Kind::Server,
        TaskKind::Explicit | TaskKind::Implicit => Kind::Workload,
    };
    if ask.spiffe_id.kind() != named {
        let (id, kind) = (ask.spiffe_id.clone(), ask.kind.name());
        return Err(Refusal::SpiffeIdKind { id, kind });
    }
    // An entry that was asked for and not found must not become "no entry needed".
    if ask.entry != entry.map(|entry| entry.id) {
        return Err(Refusal::EntryMissing);
    }
    let carried = match (entry, parent) {
        (Some(entry), _) => {
            check_entry(ask, entry, now)?;
            &entry.spiffe_id
        }
        (None, Some(parent)) => &parent.spiffe_id,
        (None, None) if is_workload(ask.kind) => return Err(Refusal::EntryMissing),
        (None, None) => &ask.spiffe_id,
    };
    if *carried != ask.spiffe_id {
        return Err(Refusal::SpiffeIdMismatch(ask.spiffe_id.clone()));
    }
    Ok(())
}

fn check_entry(ask: &Ask, entry: &Entry, now: Timestamp) -> Result<(), Refusal> {
    if let Some(at) = entry.expires_at.filter(|at| *at <= now) {
        return Err(Refusal::EntryExpired { at });
    }
    if ask.kind == TaskKind::Implicit && !entry.implicit {
        return Err(Refusal::ImplicitNotAllowed);
    }
    Ok(())
}

fn check_holder(ask: &Ask) -> Result<(), Refusal> {
    let bound = matches!(ask.binding, Binding::Process | Binding::Tree);
    // An implicit task lives as long as its process: without one it would live to its limit.
    if (bound || ask.kind == TaskKind::Implicit) && ask.holder.process.is_none() {
        return Err(Refusal::HolderMissing);
    }
    if ask.continues.is_some() && ask.kind == TaskKind::Explicit {
        return Err(Refusal::NoSuccessor(ask.kind));
    }
    Ok(())
}

fn plan_times(
    ask: &Ask,
    entry: Option<&Entry>,
    parent: Option<&Task>,
    defaults: &Defaults,
    now: Timestamp,
) -> Result<TaskTimes, Refusal> {
    let latest = latest_limit(ask.kind, entry, parent, defaults, now);
    let limit = match ask.limit {
        Some(span) => within(now + span, latest)?,
        None => latest,
    };
    let above = parent.map_or(limit, |parent| parent.times.deadline);
    let deadline = match ask.ttl {
        Some(span) => {
            let asked = within(now + span, limit)?;
            if asked > above {
                return Err(Refusal::BeyondParent {
                    asked,
                    latest: above,
                });
            }
            asked
        }
        None if ask.kind == TaskKind::Explicit => (now + defaults.task_ttl).min(limit).min(above),
        // The others last as long as what holds them, and have successors.
        None => limit.min(above),
    };
    // Spans under a millisecond vanish in a timestamp.
    if deadline <= now {
        return Err(Refusal::NoTime);
    }
    Ok(TaskTimes {
        opened: now,
        deadline,
        limit,
    })
}

/// The latest limit that entry, parent and trust domain all allow.
fn latest_limit(
    kind: TaskKind,
    entry: Option<&Entry>,
    parent: Option<&Task>,
    defaults: &Defaults,
    now: Timestamp,
) -> Timestamp {
    let domain = if is_workload(kind) {
        defaults.max_limit
    } else {
        defaults.node_limit
    };
    let narrowed = entry
        .and_then(|entry| entry.max_limit)
        .unwrap_or(Duration::MAX);
    // P4: never more than 30 days, whatever is configured, or live buckets have no bound.
    let span = domain.min(narrowed).min(Entry::MAX_LIMIT);
    let above = parent.map_or(Timestamp::MAX, |parent| parent.times.limit);
    let expiry = entry
        .and_then(|entry| entry.expires_at)
        .unwrap_or(Timestamp::MAX);
    (now + span).min(above).min(expiry)
}

fn within(asked: Timestamp, latest: Timestamp) -> Result<Timestamp, Refusal> {
    if asked > latest {
        Err(Refusal::BeyondLimit { asked, latest })
    } else {
        Ok(asked)
    }
}

fn plan_authority(
    ask: &Ask,
    entry: Option<&Entry>,
    parent: Option<&Task>,
) -> Result<Authority, Refusal> {
    let nothing = Authority::default();
    let entry = entry.map(|entry| ("the entry", &entry.authority));
    let parent = parent.map(|parent| ("the parent task", &parent.authority));
    let (narrowest, other) = match (parent, entry) {
        (Some(parent), entry) => (parent, entry),
        (None, Some(entry)) => (entry, None),
        (None, None) => (("a node or server", &nothing), None),
    };
    let Some(asked) = &ask.authority else {
        let (_, whole) = narrowest;
        return Ok(other.map_or_else(|| whole.clone(), |(_, other)| whole.common(other)));
    };
    asked.validate()?;
    for (whose, wider) in [Some(narrowest), other].into_iter().flatten() {
        if let Some(what) = asked.first_beyond(wider) {
            return Err(Refusal::BeyondAuthority { what, whose });
        }
    }
    Ok(asked.clone())
}

fn plan_limits(ask: &Ask, entry: Option<&Entry>, parent: Option<&Task>) -> Result<Limits, Refusal> {
    let entry = entry.map(|entry| Limits {
        children: entry.max_children,
        depth: entry.max_depth,
    });
    let parent = parent.map(|parent| {
        let Limits { children, depth } = parent.limits;
        Limits {
            children,
            depth: depth.saturating_sub(1),
        }
    });
    let most = match (entry, parent) {
        (Some(entry), Some(parent)) => Limits {
            children: entry.children.min(parent.children),
            depth: entry.depth.min(parent.depth),
        },
        (one, other) => one.or(other).unwrap_or(Limits {
            children: 0,
            depth: 0,
        }),
    };
    let Some(asked) = ask.limits else {
        return Ok(most);
    };
    if asked.children > most.children {
        return Err(Refusal::TooManyChildren { max: most.children });
    }
    if asked.depth > most.depth {
        return Err(Refusal::TooDeep { max: most.depth });
    }
    Ok(asked)
}

fn plan_owner(ask: &Ask, entry: Option<&Entry>, parent: Option<&Task>) -> String {
    if !ask.owner.is_empty() {
        return ask.owner.clone();
    }
    // A delegate acts for whom its delegator acts, whatever its own entry says.
    let inherited = parent
        .map(|parent| parent.owner.clone())
        .filter(|owner| !owner.is_empty());
    inherited
        .or_else(|| entry.map(|entry| entry.owner.clone()))
        .unwrap_or_default()
}
