//! Attests workloads by what the kernel says of their process: user, groups, executable.
//!
//! The first look was taken when the connection was accepted ([`Peer::of`]); this is the second,
//! taken before each reply. See `README.md` for the selectors and for what they do not prove.

mod accounts;
mod digest;
mod executable;
mod recent;

use std::sync::Arc;
use std::time::Instant;

use taskmint_attest::{AttestError, WorkloadAttestor, async_trait};
use taskmint_model::{Clock, Selector};
use taskmint_peer::{Executable, ExecutableError, Peer, ProcessFacts};
use tokio::sync::Semaphore;

use accounts::Unmapped;
use digest::Digests;
use recent::Recent;

/// The attestor's name and the kind of its selectors.
pub const NAME: &str = "unix";

/// Blocking look-ups at once: a name service or a file system that hangs takes this many threads
/// and no more.
const BLOCKING: usize = 8;

/// What is looked at beyond users and groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Whether to give `unix:path`.
    pub discover_path: bool,
    /// The largest executable, in bytes, for which to give `unix:sha256`; 0 gives it for none.
    pub max_sha256_bytes: u64,
}

/// Says what the kernel knows of a peer.
pub struct UnixAttestor {
    config: Config,
    unmapped: Unmapped,
    digests: Arc<Digests>,
    recent: Recent,
    blocking: Arc<Semaphore>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            discover_path: true,
            max_sha256_bytes: 512 << 20,
        }
    }
}

impl UnixAttestor {
    /// An attestor that remembers digests; `clock` tells it which are safe to remember.
    pub fn new(config: Config, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            unmapped: Unmapped::here(),
            digests: Arc::new(Digests::new(clock)),
            recent: Recent::default(),
            blocking: Arc::new(Semaphore::new(BLOCKING)),
        }
    }

    /// Selectors that need a look at files or accounts, on a thread that may block.
    async fn look_up(
        &self,
        peer: &Peer,
        facts: &ProcessFacts,
    ) -> Result<Vec<Selector>, AttestError> {
        let permit = Arc::clone(&self.blocking).acquire_owned().await;
        let (config, unmapped, digests) = (self.config, self.unmapped, Arc::clone(&self.digests));
        let (peer, facts) = (peer.clone(), facts.clone());
        let job = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut selectors = executable::selectors(config, &digests, &peer, &facts)?;
            selectors.extend(accounts::selectors(&facts, &unmapped)?);
            Ok(selectors)
        });
        job.await.map_err(|error| AttestError::Unavailable {
            reason: "ATTESTOR_BROKEN",
            what: "the look at files and accounts".into(),
            source: error.into(),
        })?
    }
}

#[async_trait]
impl WorkloadAttestor for UnixAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, peer: &Peer) -> Result<Vec<Selector>, AttestError> {
        let facts = peer.look()?;
        self.unmapped.refuse(&facts)?;
        refuse_privileged(peer.first_look())?;
        refuse_privileged(&facts)?;
        let asked = Instant::now();
        if let Some(selectors) = self.recent.get(&facts, asked) {
            return Ok(selectors);
        }
        let settled = self.digests.is_settled(&facts);
        let mut selectors = vec![
            selector("uid", facts.uid.effective)?,
            selector("gid", facts.gid.effective)?,
        ];
        let looked_up = self.look_up(peer, &facts).await?;
        selectors.extend(looked_up);
        // Reading files takes its time: what was said must still be so when it is used.
        let after = peer.look()?;
        refuse_privileged(&after)?;
        if after.groups != facts.groups {
            let detail = format!("the groups of process {} are changing", peer.pid());
            return Err(AttestError::Refused {
                reason: "PEER_CREDENTIALS_CHANGED",
                detail,
            });
        }
        if settled && after == facts {
            self.recent.put(after, selectors.clone(), asked);
        }
        Ok(selectors)
    }
}

/// Refuses what runs with rights that its starter does not have, and what can't be told.
///
/// Who starts a setuid program chooses its arguments, environment and open files: its uid says
/// little about who acts.
fn refuse_privileged(facts: &ProcessFacts) -> Result<(), AttestError> {
    let (pid, uid) = (facts.process.pid, facts.uid);
    let refused = |reason, what: &str| {
        let detail = format!("process {pid} of uid {uid} {what}");
        Err(AttestError::Refused { reason, detail })
    };
    match &facts.executable {
        Ok(file) if Executable::is_setuid(file) => refused(
            "EXECUTABLE_SETUID",
            "runs a setuid file; run one without that bit",
        ),
        Ok(file) if Executable::is_setgid(file) => refused(
            "EXECUTABLE_SETGID",
            "runs a setgid file; run one without that bit",
        ),
        Ok(_) => Ok(()),
        Err(ExecutableError::Missing) => refused("EXECUTABLE_MISSING", "runs no file"),
        // Not merely unknown: a process could hide a setuid file by being undumpable.
        Err(ExecutableError::Unreadable { .. }) => refused(
            "EXECUTABLE_UNREADABLE",
            "runs a file that the agent may not see; \
             give the agent CAP_SYS_PTRACE, or run it as the same user as the workload",
        ),
    }
}

fn selector(fact: &str, value: impl std::fmt::Display) -> Result<Selector, AttestError> {
    Ok(Selector::new(NAME, &format!("{fact}:{value}"))?)
}

/// A selector whose value others chose: left out if it can't be one.
fn selector_if_printable(fact: &str, value: &str) -> Option<Selector> {
    match selector(fact, value) {
        Ok(selector) => Some(selector),
        Err(error) => {
            tracing::warn!(fact, %error, "left out: no selector can hold it");
            None
        }
    }
}

#[cfg(test)]
mod tests;
