//! Who calls: attested anew before each answer that mints or changes something.

use taskmint_attest::AttestError;
use taskmint_model::{Process, Selectors, TaskId};
use taskmint_peer::{AncestryError, HeldProcess, Peer, ancestry};
use taskmint_wire::node;
use tonic::{Code, Request, Status};

use crate::agent::Agent;
use crate::denial::{Denial, texts};

/// On which socket a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// One that every process of the node may connect to.
    Shared,
    /// A task's own (P2).
    Task(TaskId),
}

/// An accepted connection; in the extensions of each of its requests.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    pub(crate) scope: Scope,
}

/// A process that was attested a moment ago.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    connection: Connection,
    selectors: Selectors,
    ancestry: Vec<Process>,
}

impl Connection {
    /// The connection that a request came over.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| {
            Denial::new(Code::Internal, "FAULT", "the connection is unknown").status()
        })
    }
}

impl Caller {
    /// Which process it is.
    pub(crate) fn process(&self) -> Process {
        self.connection.peer.process()
    }

    pub(crate) fn uid(&self) -> u32 {
        self.connection.peer.uid()
    }

    pub(crate) fn held(&self) -> &HeldProcess {
        self.connection.peer.held()
    }

    pub(crate) fn scope(&self) -> Scope {
        self.connection.scope
    }

    /// What it is attested to be.
    pub(crate) fn selectors(&self) -> &Selectors {
        &self.selectors
    }

    /// Itself and its ancestors, nearest first.
    pub(crate) fn ancestry(&self) -> &[Process] {
        &self.ancestry
    }

    pub(crate) fn to_wire(&self) -> node::Caller {
        node::Caller {
            process: self.process().to_string(),
            uid: self.uid(),
            selectors: texts(&self.selectors),
        }
    }
}

impl Agent {
    /// Looks at who connected, again and whole. What an attestor remembers from earlier calls is its
    /// own affair: `unix` keeps for a second what takes files other than `/proc` to find out.
    ///
    /// # Errors
    /// A denial by an attestor, or that none could tell.
    pub(crate) async fn attest(
        &self,
        connection: &Connection,
        action: &'static str,
    ) -> Result<Caller, Status> {
        let peer = &connection.peer;
        let denied = |denial| {
            Err(self
                .denials
                .give_unattested(peer.process(), peer.uid(), action, denial))
        };
        let selectors = match self.attestors.attest(peer).await {
            Ok(selectors) => selectors,
            Err(error) => return denied(not_attested(&error)),
        };
        let ancestry = match ancestry(peer) {
            Ok(ancestry) => ancestry.iter().map(HeldProcess::process).collect(),
            Err(error) => return denied(no_ancestry(&error)),
        };
        Ok(Caller {
            connection: connection.clone(),
            selectors,
            ancestry,
        })
    }

    /// The caller of a request, within its rate, attested.
    pub(crate) async fn caller<T>(
        &self,
        request: &Request<T>,
        action: &'static str,
    ) -> Result<Caller, Status> {
        let connection = self.admit(request)?;
        self.attest(&connection, action).await
    }

    /// The connection of a request, if its process is within its rate.
    pub(crate) fn admit<T>(&self, request: &Request<T>) -> Result<Connection, Status> {
        let connection = Connection::of(request)?;
        self.within_rate(&connection)?;
        Ok(connection)
    }

    /// Counts a call over a connection, if its process is within its rate.
    pub(crate) fn within_rate(&self, connection: &Connection) -> Result<(), Status> {
        let Err(wait) = self.rates.check(connection.peer.process()) else {
            return Ok(());
        };
        self.metrics.denied("TOO_MANY_CALLS");
        let message = "this process calls too often";
        let denial = Denial::new(Code::ResourceExhausted, "TOO_MANY_CALLS", message);
        Err(denial
            .fix("call less often, and keep streams open")
            .retry_after(wait)
            .status())
    }
}

fn not_attested(error: &AttestError) -> Denial {
    if error.is_refusal() || matches!(error, AttestError::NoSelectors) {
        Denial::no_identity(error.reason(), error)
    } else {
        Denial::new(Code::Unavailable, error.reason(), error.to_string()).fix("try again")
    }
}

fn no_ancestry(error: &AncestryError) -> Denial {
    match error {
        AncestryError::TooDeep(_) => Denial::no_identity("ANCESTRY_TOO_DEEP", error),
        AncestryError::Process(gone) if gone.is_gone() => Denial::no_identity("PEER_GONE", error),
        AncestryError::Process(_) | AncestryError::Unstable(_) => {
            let message = error.to_string();
            Denial::new(Code::Unavailable, "ANCESTRY_UNKNOWN", message).fix("try again")
        }
    }
}
