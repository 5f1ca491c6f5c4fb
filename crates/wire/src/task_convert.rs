//! Tasks between model and wire.

use taskmint_id::SpiffeId;
use taskmint_model::{
    Actor, Authority, Binding, Cause, EndTrace, Holder, Limits, State, Suspension, Task, TaskId,
    TaskKind, TaskTimes, Timestamp,
};
use taskmint_status::{LogId, Place};

use crate::task as wire;

/// A field of a message that can't be what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct BadField {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl BadField {
    /// A bad field and what is wrong with it.
    pub fn new(field: &'static str, why: impl ToString) -> Self {
        Self {
            field,
            why: why.to_string(),
        }
    }
}

impl From<BadField> for tonic::Status {
    fn from(bad: BadField) -> Self {
        crate::Denied::new(tonic::Code::InvalidArgument, "BAD_FIELD", bad.to_string()).into()
    }
}

fn text<T: ToString>(option: Option<&T>) -> String {
    option.map(ToString::to_string).unwrap_or_default()
}

impl From<&Task> for wire::Task {
    fn from(task: &Task) -> Self {
        let (suspension, ending) = match &task.state {
            State::Live => (None, None),
            State::Suspended { own, inherited } => {
                let own = own.as_ref();
                let suspension = wire::Suspension {
                    by: text(own.map(|own| &own.by)),
                    at_ms: own.map_or(0, |own| own.at.millis()),
                    reason: own.map(|own| own.reason.clone()).unwrap_or_default(),
                    inherited: *inherited,
                };
                (Some(suspension), None)
            }
            State::Ended { at, cause, by, .. } => {
                let cause = cause.name().to_owned();
                let ending = wire::Ending {
                    at_ms: at.millis(),
                    cause,
                    by: by.to_string(),
                };
                (None, Some(ending))
            }
        };
        Self {
            id: task.id.to_string(),
            root_id: task.root.to_string(),
            parent_id: text(task.parent.as_ref()),
            spiffe_id: task.spiffe_id.to_string(),
            entry_id: text(task.entry.as_ref()),
            owner: task.owner.clone(),
            purpose: task.purpose.clone(),
            scopes: task.authority.scopes.iter().cloned().collect(),
            audiences: task.authority.audiences.iter().cloned().collect(),
            opened_at_ms: task.times.opened.millis(),
            deadline_ms: task.times.deadline.millis(),
            limit_ms: task.times.limit.millis(),
            state: match task.state {
                State::Live => wire::State::Live,
                State::Suspended { .. } => wire::State::Suspended,
                State::Ended { .. } => wire::State::Ended,
            }
            .into(),
            kind: match task.kind {
                TaskKind::Explicit => wire::Kind::Explicit,
                TaskKind::Implicit => wire::Kind::Implicit,
                TaskKind::Node => wire::Kind::Node,
                TaskKind::Server => wire::Kind::Server,
            }
            .into(),
            binding: match task.binding {
                Binding::Process => wire::Binding::Process,
                Binding::Tree => wire::Binding::Tree,
                Binding::Socket { .. } => wire::Binding::Socket,
                Binding::None => wire::Binding::None,
            }
            .into(),
            depth: task.depth.into(),
            children: task.children,
            max_children: task.limits.children,
            max_depth: task.limits.depth.into(),
            node_id: text(task.holder.node.as_ref()),
            process: text(task.holder.process.as_ref()),
            continues: text(task.continues.as_ref()),
            place: Some(wire::Place {
                log_id: task.place.log().0.to_vec(),
                bucket: task.place.bucket(),
                index: task.place.index(),
            }),
            suspension,
            ending,
            version: task.version,
        }
    }
}

/// Reads a field whose text is an id, a SPIFFE ID, a process or the like.
///
/// # Errors
/// Names the field, and says what is wrong with its text.
pub fn field<T>(field: &'static str, text: &str) -> Result<T, BadField>
where
    T: std::str::FromStr<Err: ToString>,
{
    text.parse().map_err(|e: T::Err| BadField::new(field, e))
}

/// As [`field()`]; empty means unset.
///
/// # Errors
/// As [`field()`].
pub fn optional<T>(field: &'static str, text: &str) -> Result<Option<T>, BadField>
where
    T: std::str::FromStr<Err: ToString>,
{
    if text.is_empty() {
        Ok(None)
    } else {
        self::field(field, text).map(Some)
    }
}

/// Reads a task that a server sent to its agent. The grant does not travel: it stays empty.
///
/// # Errors
/// Names the first field that can't be what it says.
pub fn task_from_wire(task: &wire::Task) -> Result<Task, BadField> {
    let place = task
        .place
        .as_ref()
        .ok_or_else(|| BadField::new("place", "is missing"))?;
    let log: [u8; 8] = place
        .log_id
        .as_slice()
        .try_into()
        .map_err(|_| BadField::new("place.log_id", "must have 8 octets"))?;
    let place =
        Place::new(LogId(log), place.bucket, place.index).map_err(|e| BadField::new("place", e))?;
    let state = match task.state() {
        wire::State::Unspecified => return Err(BadField::new("state", "is missing")),
        wire::State::Live => State::Live,
        wire::State::Suspended => {
            let of = task.suspension.clone().unwrap_or_default();
            let own = (!of.by.is_empty()).then(|| Suspension {
                by: Actor::Admin(of.by.clone()),
                at: Timestamp::from_millis(of.at_ms),
                reason: of.reason.clone(),
            });
            State::Suspended {
                own,
                inherited: of.inherited,
            }
        }
        wire::State::Ended => {
            let of = task.ending.clone().unwrap_or_default();
            let cause = Cause::from_name(&of.cause)
                .ok_or_else(|| BadField::new("ending.cause", "is unknown"))?;
            State::Ended {
                at: Timestamp::from_millis(of.at_ms),
                cause,
                by: Actor::Admin(of.by),
                trace: EndTrace::default(),
            }
        }
    };
    Ok(Task {
        id: field("id", &task.id)?,
        version: task.version,
        root: field("root_id", &task.root_id)?,
        parent: optional::<TaskId>("parent_id", &task.parent_id)?,
        depth: u8::try_from(task.depth).map_err(|e| BadField::new("depth", e))?,
        continues: optional("continues", &task.continues)?,
        place,
        kind: match task.kind() {
            wire::Kind::Unspecified => return Err(BadField::new("kind", "is missing")),
            wire::Kind::Explicit => TaskKind::Explicit,
            wire::Kind::Implicit => TaskKind::Implicit,
            wire::Kind::Node => TaskKind::Node,
            wire::Kind::Server => TaskKind::Server,
        },
        entry: optional("entry_id", &task.entry_id)?,
        spiffe_id: field::<SpiffeId>("spiffe_id", &task.spiffe_id)?,
        owner: task.owner.clone(),
        purpose: task.purpose.clone(),
        authority: Authority {
            scopes: task.scopes.iter().cloned().collect(),
            audiences: task.audiences.iter().cloned().collect(),
        },
        times: TaskTimes {
            opened: Timestamp::from_millis(task.opened_at_ms),
            deadline: Timestamp::from_millis(task.deadline_ms),
            limit: Timestamp::from_millis(task.limit_ms),
        },
        limits: Limits {
            children: task.max_children,
            depth: u8::try_from(task.max_depth).map_err(|e| BadField::new("max_depth", e))?,
        },
        children: task.children,
        holder: Holder {
            node: optional("node_id", &task.node_id)?,
            process: optional("process", &task.process)?,
        },
        binding: match task.binding() {
            wire::Binding::Tree => Binding::Tree,
            wire::Binding::Socket => Binding::Socket { uid: 0 },
            wire::Binding::None => Binding::None,
            wire::Binding::Process | wire::Binding::Unspecified => Binding::Process,
        },
        state,
        grant: Vec::new(),
    })
}

/// Reads an authority and checks it.
///
/// # Errors
/// When an item is empty, too long or unprintable, or there are too many.
pub fn authority_from_wire(authority: &wire::Authority) -> Result<Authority, BadField> {
    let authority = Authority {
        scopes: authority.scopes.iter().cloned().collect(),
        audiences: authority.audiences.iter().cloned().collect(),
    };
    authority
        .validate()
        .map_err(|e| BadField::new("authority", e))?;
    Ok(authority)
}

/// Reads a binding; unset means the caller's process.
pub fn binding_from_wire(request: &wire::BeginRequest) -> Binding {
    match request.binding() {
        wire::Binding::Unspecified | wire::Binding::Process => Binding::Process,
        wire::Binding::Tree => Binding::Tree,
        wire::Binding::Socket => Binding::Socket { uid: request.uid },
        wire::Binding::None => Binding::None,
    }
}
