//! Begin and delegate, for workloads.

use std::sync::Arc;

use taskmint_id::SpiffeId;
use taskmint_id::csr::key_of_csr;
use taskmint_model::{TaskId, bounded};
use taskmint_wire::{Denied, authority_from_wire, node, task};
use tonic::{Code, Status};

use crate::agent::Agent;
use crate::asked::Asked;
use crate::begin::{Beginning, Begun, fault};
use crate::caller::{Caller, Connection, Scope};
use crate::denial::Denial;
use crate::ends::End;
use crate::key::PrivateKey;
use crate::ruling::task_id;
use crate::task_read::svid;
use crate::view::{Missing, starting};

/// The longest free text: purpose, owner, reason.
pub(crate) const MAX_TEXT: usize = 1024;

/// What a request asks for, once it can mean something.
struct Ask {
    task: task::BeginRequest,
    /// Of the caller's own key, if it keeps one.
    spki: Option<Vec<u8>>,
    child: Option<u32>,
    folder: Option<u32>,
}

impl Agent {
    /// Opens a task for the caller, its child or a socket.
    pub(crate) async fn begin_task(
        self: &Arc<Self>,
        connection: &Connection,
        request: task::BeginRequest,
    ) -> Result<task::BeginResponse, Status> {
        let ask = read(request, connection)?;
        let caller = self.attest(connection, "Begin").await?;
        if caller.scope() != Scope::Shared {
            // Who is confined to a task does not leave it by beginning another.
            let message = "on a task's own socket only tasks below it can begin";
            let denial = Denial::new(Code::PermissionDenied, "CONFINED", message);
            let fix = "delegate instead, or use the node's task socket";
            return Err(self.denials.give(&caller, "Begin", denial.fix(fix)));
        }
        let asked = Asked::new("begin", &ask.task.request_id, &ask.task);
        self.begin_for(connection, caller, ask, String::new(), asked)
            .await
    }

    /// Opens a task below one that the caller sees.
    pub(crate) async fn delegate_task(
        self: &Arc<Self>,
        connection: &Connection,
        request: task::DelegateRequest,
    ) -> Result<task::BeginResponse, Status> {
        let ask = read(request.task.unwrap_or_default(), connection)?;
        if !request.parent_id.is_empty() {
            task_id(&request.parent_id)?;
        }
        let caller = self.attest(connection, "Delegate").await?;
        let said = task::DelegateRequest {
            parent_id: request.parent_id.clone(),
            task: Some(ask.task.clone()),
        };
        let asked = Asked::new("delegate", &ask.task.request_id, &said);
        let parent = match self.parent(&caller, &request.parent_id) {
            Ok(parent) => parent,
            Err(Missing::Status(status)) => return Err(status),
            Err(Missing::Denied(denial)) => match self.recall(&caller, &asked).await? {
                // With no parent there is nothing that an SVID could hang off.
                Some(answer) => {
                    return Ok(task::BeginResponse {
                        task: answer.task,
                        ..Default::default()
                    });
                }
                None => return Err(self.refuse(&caller, "Delegate", denial)),
            },
        };
        self.begin_for(connection, caller, ask, parent.to_string(), asked)
            .await
    }

    /// The task to begin below: the one named, or the nearest.
    fn parent(&self, caller: &Caller, id: &str) -> Result<TaskId, Missing> {
        if !id.is_empty() {
            return Ok(self.resolve(caller, id)?.held.task.id);
        }
        self.nearest(caller)
    }

    /// The deepest of the tasks that the caller sees, and of those the newest.
    fn nearest(&self, caller: &Caller) -> Result<TaskId, Missing> {
        let seen = self.bound(caller).map_err(Missing::Status)?.into_iter();
        let nearest = seen.max_by_key(|held| (held.task.depth, held.order));
        nearest.map(|held| held.task.id).ok_or_else(|| {
            let message = "this process sees no task that another could begin below";
            let denial = Denial::new(Code::NotFound, "NO_TASK", message);
            Missing::Denied(denial.fix("begin a task first"))
        })
    }

    async fn begin_for(
        self: &Arc<Self>,
        connection: &Connection,
        caller: Caller,
        ask: Ask,
        parent_id: String,
        asked: Asked,
    ) -> Result<task::BeginResponse, Status> {
        let Ask {
            task,
            spki,
            child,
            folder,
        } = ask;
        let holder = match child {
            Some(pid) => Some(self.child(connection, &caller, pid).await?),
            None => None,
        };
        let key = match &spki {
            Some(_) => None,
            None => Some(PrivateKey::generate().map_err(|error| fault(&error))?),
        };
        let own_spki = key.as_ref().map(|key| key.spki.clone());
        // The task is the child's: its facts decide, and who asks only names it.
        let facts = holder.as_ref().unwrap_or(&caller).to_wire();
        let request = node::BeginTaskRequest {
            task: Some(task),
            parent_id,
            caller: Some(node::Caller {
                process: caller.process().to_string(),
                ..facts
            }),
            holder: holder
                .as_ref()
                .map(|held| held.process().to_string())
                .unwrap_or_default(),
            spki: spki.clone().or(own_spki).unwrap_or_default(),
            request_digest: asked.digest(),
            ..Default::default()
        };
        let beginner = caller.held().clone();
        let beginning = Beginning {
            request,
            key,
            beginner,
            folder,
            kind: "explicit",
        };
        let begun = self.begin(beginning).await?;
        let socket_dir = match folder {
            Some(uid) => self.folder_of(&begun, uid)?,
            None => String::new(),
        };
        // A key is for who holds the task: a child's or a socket's does not go to who began it.
        let for_caller = spki.is_some() || (holder.is_none() && folder.is_none());
        let svid = if for_caller {
            self.first_svid(&begun)?
        } else {
            None
        };
        let task = Some((&*begun.held.task).into());
        Ok(task::BeginResponse {
            task,
            svid,
            socket_dir,
        })
    }

    /// A child that the caller names, attested as itself (P1).
    async fn child(
        &self,
        connection: &Connection,
        caller: &Caller,
        pid: u32,
    ) -> Result<Caller, Status> {
        let peer = connection.peer.child(pid).map_err(|error| {
            let denial = Denial::new(Code::PermissionDenied, error.reason(), error.to_string());
            self.denials.give(
                caller,
                "Begin",
                denial.fix("name a child that this process started"),
            )
        })?;
        let connection = Connection {
            peer,
            scope: connection.scope,
        };
        self.attest(&connection, "Begin").await
    }

    fn folder_of(self: &Arc<Self>, begun: &Begun, uid: u32) -> Result<String, Status> {
        let id = begun.held.task.id;
        if begun.held.task.is_ended() {
            return Ok(String::new());
        }
        let made = self.folders.make(self, id, uid);
        let path = made.map_err(|error| {
            // A task that nobody can reach must not stay.
            self.end_later(End::new(id, "failed", "its sockets could not be made"));
            fault(&error)
        })?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn first_svid(&self, begun: &Begun) -> Result<Option<task::X509svid>, Status> {
        if begun.certificate.is_empty() {
            return Ok(None);
        }
        let bundle = self.knowledge.bundle().ok_or_else(starting)?;
        let key = begun
            .svid
            .as_ref()
            .map(|svid| svid.key.to_vec())
            .unwrap_or_default();
        let (held, expires_at) = (&begun.held, begun.expires_at);
        Ok(Some(svid(
            held,
            begun.certificate.clone(),
            key,
            &bundle,
            expires_at,
        )))
    }
}

/// Reads a request, before anything is spent on it.
fn read(mut request: task::BeginRequest, connection: &Connection) -> Result<Ask, Status> {
    request_id(&request.request_id)?;
    if !request.spiffe_id.is_empty() {
        SpiffeId::parse(&request.spiffe_id)
            .map_err(|error| Denial::invalid("BAD_SPIFFE_ID", error.to_string()).status())?;
    }
    text("purpose", &request.purpose)?;
    text("owner", &request.owner)?;
    if let Some(authority) = &request.authority {
        authority_from_wire(authority)?;
    }
    let spki = match std::mem::take(&mut request.csr) {
        csr if csr.is_empty() => None,
        csr => Some(csr_key(&csr)?),
    };
    let uid = connection.peer.uid();
    let (child, folder) = match binding(&request, connection)? {
        task::Binding::Socket => {
            // Unset means the caller's own; only root may make folders for others.
            if request.uid == 0 {
                request.uid = uid;
            }
            if request.uid != uid && uid != 0 {
                let message =
                    format!("only root makes sockets for others; the caller is uid {uid}");
                return Err(bad("BAD_BINDING", message));
            }
            (None, Some(request.uid))
        }
        task::Binding::Tree if request.pid != 0 && request.pid != connection.peer.pid() => {
            (Some(request.pid), None)
        }
        _ => (None, None),
    };
    Ok(Ask {
        task: request,
        spki,
        child,
        folder,
    })
}

fn binding(request: &task::BeginRequest, connection: &Connection) -> Result<task::Binding, Status> {
    let binding = task::Binding::try_from(request.binding)
        .map_err(|_| bad("BAD_BINDING", format!("{} is no binding", request.binding)))?;
    if binding == task::Binding::None {
        let message = "a task that is bound to nobody is begun on the server, by an orchestrator";
        return Err(bad("BAD_BINDING", message));
    }
    let names_other = request.pid != 0 && request.pid != connection.peer.pid();
    if names_other && binding != task::Binding::Tree {
        return Err(bad(
            "BAD_BINDING",
            "a pid is only for a task that is bound to a tree",
        ));
    }
    if request.uid != 0 && binding != task::Binding::Socket {
        return Err(bad(
            "BAD_BINDING",
            "a uid is only for a task that is bound to a socket",
        ));
    }
    Ok(binding)
}

/// The public key of a CSR that its owner signed.
pub(crate) fn csr_key(csr: &[u8]) -> Result<Vec<u8>, Status> {
    let key = key_of_csr(csr).map_err(|error| bad("BAD_CSR", format!("the csr {error}")))?;
    Ok(key.to_spki_der().to_vec())
}

/// A request id is absent, or sixteen octets that are not all zero.
pub(crate) fn request_id(id: &[u8]) -> Result<(), Status> {
    if id.is_empty() || (id.len() == 16 && id.iter().any(|octet| *octet != 0)) {
        return Ok(());
    }
    Err(bad(
        "BAD_REQUEST_ID",
        "a request id has 16 octets, not all zero",
    ))
}

/// A free text, bounded and printable.
pub(crate) fn text(name: &'static str, text: &str) -> Result<(), Status> {
    bounded(name, text, MAX_TEXT).map_err(|error| bad("BAD_TEXT", error.to_string()))
}

fn bad(reason: &'static str, message: impl Into<String>) -> Status {
    Denied::new(Code::InvalidArgument, reason, message).into()
}
