//! Tasks and what was minted under them.

use taskmint_model::{
    Actor, Authority, Binding, Cause, CredentialKind, EndTrace, Holder, Issuance, Limits, State,
    Suspension, Task, TaskKind, TaskTimes,
};

use super::{Bad, Read, array, at, id, octets, pb, place, process, spiffe_id, to_process};

impl From<&Task> for pb::Task {
    fn from(task: &Task) -> Self {
        Self {
            id: octets(task.id),
            version: task.version,
            root: octets(task.root),
            parent: task.parent.map(octets),
            depth: task.depth.into(),
            continues: task.continues.map(octets),
            log: task.place.log().0.to_vec(),
            slot: Some(task.place.slot().into()),
            kind: kind(task.kind).into(),
            entry: task.entry.map(octets),
            spiffe_id: task.spiffe_id.to_string(),
            owner: task.owner.clone(),
            purpose: task.purpose.clone(),
            authority: Some((&task.authority).into()),
            opened: task.times.opened.millis(),
            deadline: task.times.deadline.millis(),
            limit: task.times.limit.millis(),
            max_children: task.limits.children,
            max_depth: task.limits.depth.into(),
            children: task.children,
            holder_node: task.holder.node.as_ref().map(ToString::to_string),
            holder_process: task.holder.process.as_ref().map(to_process),
            binding: Some(pb::Binding {
                binding: Some(binding(&task.binding)),
            }),
            state: Some(state(&task.state)),
            grant: task.grant.clone(),
        }
    }
}

impl TryFrom<pb::Task> for Task {
    type Error = Bad;
    fn try_from(record: pb::Task) -> Read<Self> {
        let kind = record.kind();
        Ok(Self {
            id: id(&record.id)?,
            version: record.version,
            root: id(&record.root)?,
            parent: record.parent.as_deref().map(id).transpose()?,
            depth: depth(record.depth)?,
            continues: record.continues.as_deref().map(id).transpose()?,
            place: place(&record.log, record.slot)?,
            kind: read_kind(kind)?,
            entry: record.entry.as_deref().map(id).transpose()?,
            spiffe_id: spiffe_id(&record.spiffe_id)?,
            owner: record.owner,
            purpose: record.purpose,
            authority: record.authority.unwrap_or_default().into(),
            times: TaskTimes {
                opened: at(record.opened),
                deadline: at(record.deadline),
                limit: at(record.limit),
            },
            limits: Limits {
                children: record.max_children,
                depth: depth(record.max_depth)?,
            },
            children: record.children,
            holder: Holder {
                node: record.holder_node.as_deref().map(spiffe_id).transpose()?,
                process: record.holder_process.map(process).transpose()?,
            },
            binding: read_binding(record.binding)?,
            state: read_state(record.state)?,
            grant: record.grant,
        })
    }
}

fn depth(depth: u32) -> Read<u8> {
    depth.try_into().map_err(|_| Bad("depth"))
}

fn kind(kind: TaskKind) -> pb::TaskKind {
    match kind {
        TaskKind::Explicit => pb::TaskKind::Explicit,
        TaskKind::Implicit => pb::TaskKind::Implicit,
        TaskKind::Node => pb::TaskKind::Node,
        TaskKind::Server => pb::TaskKind::Server,
    }
}

fn read_kind(kind: pb::TaskKind) -> Read<TaskKind> {
    match kind {
        pb::TaskKind::Unspecified => Err(Bad("task kind")),
        pb::TaskKind::Explicit => Ok(TaskKind::Explicit),
        pb::TaskKind::Implicit => Ok(TaskKind::Implicit),
        pb::TaskKind::Node => Ok(TaskKind::Node),
        pb::TaskKind::Server => Ok(TaskKind::Server),
    }
}

fn binding(binding: &Binding) -> pb::binding::Binding {
    use pb::binding::Binding as To;
    match *binding {
        Binding::Process => To::Process(pb::Empty {}),
        Binding::Tree => To::Tree(pb::Empty {}),
        Binding::Socket { uid } => To::SocketUid(uid),
        Binding::None => To::None(pb::Empty {}),
    }
}

fn read_binding(record: Option<pb::Binding>) -> Read<Binding> {
    use pb::binding::Binding as From;
    Ok(
        match record
            .and_then(|record| record.binding)
            .ok_or(Bad("no binding"))?
        {
            From::Process(_) => Binding::Process,
            From::Tree(_) => Binding::Tree,
            From::SocketUid(uid) => Binding::Socket { uid },
            From::None(_) => Binding::None,
        },
    )
}

fn state(state: &State) -> pb::task::State {
    match state {
        State::Live => pb::task::State::Live(pb::Empty {}),
        State::Suspended { own, inherited } => {
            let own = own.as_ref().map(|own| pb::Suspension {
                by: Some(actor(&own.by)),
                at: own.at.millis(),
                reason: own.reason.clone(),
            });
            pb::task::State::Suspended(pb::Suspended {
                own,
                inherited: *inherited,
            })
        }
        State::Ended {
            at,
            cause,
            by,
            trace,
        } => pb::task::State::Ended(pb::Ended {
            at: at.millis(),
            cause: cause.code().into(),
            by: Some(actor(by)),
            position: trace.position,
            last_expiry: trace.last_expiry.map(taskmint_model::Timestamp::millis),
        }),
    }
}

fn read_state(record: Option<pb::task::State>) -> Read<State> {
    Ok(match record.ok_or(Bad("no state"))? {
        pb::task::State::Live(_) => State::Live,
        pb::task::State::Suspended(record) => {
            let own = record.own.map(|own| {
                let by = read_actor(own.by)?;
                Ok(Suspension {
                    by,
                    at: at(own.at),
                    reason: own.reason,
                })
            });
            State::Suspended {
                own: own.transpose()?,
                inherited: record.inherited,
            }
        }
        pb::task::State::Ended(record) => State::Ended {
            at: at(record.at),
            cause: cause(record.cause).ok_or(Bad("cause"))?,
            by: read_actor(record.by)?,
            trace: EndTrace {
                position: record.position,
                last_expiry: record.last_expiry.map(at),
            },
        },
    })
}

fn cause(code: u32) -> Option<Cause> {
    Cause::from_code(u8::try_from(code).ok()?)
}

fn actor(actor: &Actor) -> pb::Actor {
    use pb::actor::Actor as To;
    let actor = match actor {
        Actor::Holder => To::Holder(pb::Empty {}),
        Actor::Ancestor(task) => To::Ancestor(octets(*task)),
        Actor::Node(node) => To::Node(node.to_string()),
        Actor::Admin(name) => To::Admin(name.clone()),
        Actor::Issuer => To::Issuer(pb::Empty {}),
    };
    pb::Actor { actor: Some(actor) }
}

fn read_actor(record: Option<pb::Actor>) -> Read<Actor> {
    use pb::actor::Actor as From;
    Ok(
        match record
            .and_then(|record| record.actor)
            .ok_or(Bad("no actor"))?
        {
            From::Holder(_) => Actor::Holder,
            From::Ancestor(task) => Actor::Ancestor(id(&task)?),
            From::Node(node) => Actor::Node(spiffe_id(&node)?),
            From::Admin(name) => Actor::Admin(name),
            From::Issuer(_) => Actor::Issuer,
        },
    )
}

impl From<&Authority> for pb::Authority {
    fn from(authority: &Authority) -> Self {
        Self {
            scopes: authority.scopes.iter().cloned().collect(),
            audiences: authority.audiences.iter().cloned().collect(),
        }
    }
}

impl From<pb::Authority> for Authority {
    fn from(record: pb::Authority) -> Self {
        Self {
            scopes: record.scopes.into_iter().collect(),
            audiences: record.audiences.into_iter().collect(),
        }
    }
}

impl From<&Issuance> for pb::Issuance {
    fn from(issuance: &Issuance) -> Self {
        let kind = match issuance.kind {
            CredentialKind::X509Svid => pb::CredentialKind::X509Svid,
            CredentialKind::JwtSvid => pb::CredentialKind::JwtSvid,
        };
        Self {
            log: issuance.place.log().0.to_vec(),
            slot: Some(issuance.place.slot().into()),
            kind: kind.into(),
            serial: issuance.serial.to_vec(),
            key_hash: issuance.key_hash.to_vec(),
            expires_at: issuance.expires_at.millis(),
            authority: octets(issuance.authority),
            at: issuance.at.millis(),
        }
    }
}

impl TryFrom<pb::Issuance> for Issuance {
    type Error = Bad;
    fn try_from(record: pb::Issuance) -> Read<Self> {
        Ok(Self {
            kind: match record.kind() {
                pb::CredentialKind::Unspecified => return Err(Bad("credential kind")),
                pb::CredentialKind::X509Svid => CredentialKind::X509Svid,
                pb::CredentialKind::JwtSvid => CredentialKind::JwtSvid,
            },
            place: place(&record.log, record.slot)?,
            serial: array(&record.serial, "serial")?,
            key_hash: array(&record.key_hash, "key hash")?,
            expires_at: at(record.expires_at),
            authority: id(&record.authority)?,
            at: at(record.at),
        })
    }
}
