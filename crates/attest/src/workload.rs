//! Attesting the process at the other end of a socket.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use taskmint_model::{Selector, Selectors};
use taskmint_peer::{LookError, Peer, ProcessError};

use crate::error::AttestError;

/// The most selectors of one attestation; the server takes no more. Those beyond are left out
/// and logged: fewer selectors can only match fewer entries.
pub const MAX_SELECTORS: usize = 256;

/// How long all attestors together may take, unless told otherwise.
pub const ATTEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Says what is known of a peer.
#[async_trait]
pub trait WorkloadAttestor: Send + Sync {
    /// Its name in configuration and logs, and the kind of its selectors.
    fn name(&self) -> &'static str;

    /// Selectors of the peer as it is now; most telling first. None if the peer is not of its
    /// kind: a container attestor says nothing of a process outside any container.
    ///
    /// # Errors
    /// A refusal denies the peer whatever others say; a failure only if nobody else says
    /// anything. See [`AttestError::is_refusal`].
    async fn attest(&self, peer: &Peer) -> Result<Vec<Selector>, AttestError>;
}

/// All attestors of an agent, run together.
#[derive(Clone)]
pub struct WorkloadAttestors {
    attestors: Arc<[Arc<dyn WorkloadAttestor>]>,
    timeout: Duration,
}

/// Two attestors of one name: which of them vouches for a selector could not be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two attestors are named `{0}`")]
pub struct DuplicateName(pub &'static str);

impl WorkloadAttestors {
    /// Takes the configured attestors.
    ///
    /// # Errors
    /// If two have the same name.
    pub fn new(attestors: Vec<Arc<dyn WorkloadAttestor>>) -> Result<Self, DuplicateName> {
        no_duplicates(attestors.iter().map(|attestor| attestor.name()))?;
        Ok(Self {
            attestors: attestors.into(),
            timeout: ATTEST_TIMEOUT,
        })
    }

    /// The same, with another limit on how long each attestor may take.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Names, in the order given.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.attestors.iter().map(|attestor| attestor.name())
    }

    /// Everything that is known of the peer, by all attestors at once. Call it before each reply
    /// that mints or changes something; nothing is remembered from earlier calls.
    ///
    /// # Errors
    /// A refusal by any attestor; a failure if no attestor gave a selector; the peer's exit.
    /// Every error is logged, also where the answer is not one.
    pub async fn attest(&self, peer: &Peer) -> Result<Selectors, AttestError> {
        let answers = join_all(
            self.attestors
                .iter()
                .map(|attestor| self.ask(&**attestor, peer)),
        );
        let mut selectors = Selectors::new();
        let mut failure = None;
        for (attestor, answer) in self.attestors.iter().zip(answers.await) {
            match answer {
                Ok(found) => add(attestor.name(), found, &mut selectors, peer),
                Err(error) => {
                    log(attestor.name(), peer, &error);
                    failure = Some(more_telling(failure, error));
                }
            }
        }
        match failure {
            Some(error) if error.is_refusal() || selectors.is_empty() => return Err(error),
            _ => {}
        }
        if !peer.is_alive() {
            // What was read may be of an heir of its pid, where an attestor went by the number.
            return Err(LookError::from(ProcessError::Gone(peer.pid())).into());
        }
        if selectors.is_empty() {
            Err(AttestError::NoSelectors)
        } else {
            Ok(selectors)
        }
    }

    async fn ask(
        &self,
        attestor: &dyn WorkloadAttestor,
        peer: &Peer,
    ) -> Result<Vec<Selector>, AttestError> {
        let answer = tokio::time::timeout(self.timeout, attestor.attest(peer)).await;
        let found = answer.map_err(|_| AttestError::TimedOut {
            after: self.timeout,
        })??;
        if found
            .iter()
            .all(|selector| selector.kind() == attestor.name())
        {
            return Ok(found);
        }
        let what = "made a selector of another kind than its name";
        Err(AttestError::Broken {
            attestor: attestor.name(),
            what,
        })
    }
}

impl std::fmt::Debug for WorkloadAttestors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// That no two of `names` are the same.
pub(crate) fn no_duplicates(
    names: impl Iterator<Item = &'static str>,
) -> Result<(), DuplicateName> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(DuplicateName(name));
        }
    }
    Ok(())
}

fn add(attestor: &'static str, found: Vec<Selector>, to: &mut Selectors, peer: &Peer) {
    let all = found.len();
    for (index, selector) in found.into_iter().enumerate() {
        if to.len() == MAX_SELECTORS {
            let left_out = all - index;
            tracing::warn!(attestor, process = %peer.process(), left_out, "too many selectors");
            return;
        }
        to.insert(selector);
    }
}

/// A refusal before any failure, else the earlier.
fn more_telling(earlier: Option<AttestError>, later: AttestError) -> AttestError {
    match earlier {
        Some(earlier) if earlier.is_refusal() || !later.is_refusal() => earlier,
        _ => later,
    }
}

fn log(attestor: &'static str, peer: &Peer, error: &AttestError) {
    let (process, uid, reason) = (peer.process(), peer.uid(), error.reason());
    let cause = std::error::Error::source(error).map(tracing::field::display);
    if error.is_refusal() {
        tracing::warn!(attestor, %process, uid, reason, %error, cause, "a workload is refused");
    } else {
        tracing::warn!(attestor, %process, uid, reason, %error, cause, "an attestor failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskmint_peer::testing::{Actor, Socket};

    /// What one attestor answers.
    #[derive(Clone, Copy)]
    enum Answer {
        Says(&'static str),
        SaysMany(usize),
        Nothing,
        Refuses,
        Fails,
        Hangs,
    }

    /// What attestors answer, and what comes of it: selectors or a reason.
    type Case = (
        &'static [Player],
        Result<&'static [&'static str], &'static str>,
    );
    type Player = (&'static str, Answer);

    struct Played(&'static str, Answer);

    #[async_trait]
    impl WorkloadAttestor for Played {
        fn name(&self) -> &'static str {
            self.0
        }

        async fn attest(&self, _: &Peer) -> Result<Vec<Selector>, AttestError> {
            match self.1 {
                Answer::Says(text) => Ok(vec![text.parse()?]),
                Answer::SaysMany(count) => (0..count)
                    .map(|number| Ok(Selector::new(self.0, &number.to_string())?))
                    .collect(),
                Answer::Nothing => Ok(Vec::new()),
                Answer::Refuses => Err(AttestError::Refused {
                    reason: "EVIL",
                    detail: "it is evil".into(),
                }),
                Answer::Fails => Err(AttestError::Unavailable {
                    reason: "DAEMON_AWAY",
                    what: "the daemon".into(),
                    source: "no socket".into(),
                }),
                Answer::Hangs => std::future::pending().await,
            }
        }
    }

    fn attestors(answers: &[Player]) -> WorkloadAttestors {
        let played = answers
            .iter()
            .map(|(name, answer)| Arc::new(Played(name, *answer)) as _);
        WorkloadAttestors::new(played.collect())
            .unwrap()
            .with_timeout(Duration::from_millis(50))
    }

    async fn living_peer() -> (Actor, Peer) {
        let socket = Socket::bind().unwrap();
        let actor = Actor::connected(&socket).unwrap();
        (actor, Peer::of(&socket.accept().await.unwrap()).unwrap())
    }

    #[tokio::test]
    async fn attestors_add_up_and_refusals_win() {
        use Answer::{Fails, Hangs, Nothing, Refuses, Says};
        let (_actor, peer) = living_peer().await;
        let cases: &[Case] = &[
            (
                &[("a", Says("a:1")), ("b", Says("b:2"))],
                Ok(&["a:1", "b:2"]),
            ),
            (&[("a", Says("a:1")), ("b", Nothing)], Ok(&["a:1"])),
            (&[("a", Says("a:1")), ("b", Fails)], Ok(&["a:1"])),
            (&[("a", Hangs), ("b", Says("b:2"))], Ok(&["b:2"])),
            (&[("a", Says("a:1")), ("b", Refuses)], Err("EVIL")),
            (&[("a", Fails), ("b", Refuses)], Err("EVIL")),
            (&[("a", Fails), ("b", Nothing)], Err("DAEMON_AWAY")),
            (&[("a", Hangs)], Err("ATTESTATION_TIMED_OUT")),
            (&[("a", Nothing)], Err("NO_SELECTORS")),
            (&[], Err("NO_SELECTORS")),
            // Its own name is all that an attestor can vouch under.
            (&[("a", Says("b:1"))], Err("ATTESTOR_BROKEN")),
            (&[("a", Says("a:"))], Err("ATTESTOR_BROKEN")),
        ];
        for (index, (answers, expected)) in cases.iter().enumerate() {
            let found = attestors(answers).attest(&peer).await;
            let texts = found.map(|set| set.iter().map(ToString::to_string).collect::<Vec<_>>());
            let outcome = texts
                .as_ref()
                .map(Vec::as_slice)
                .map_err(AttestError::reason);
            match (outcome, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, *expected, "case {index}"),
                (Err(found), Err(expected)) => assert_eq!(found, *expected, "case {index}"),
                (outcome, _) => panic!("case {index}: {outcome:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_peer_that_left_meanwhile_is_not_attested() {
        let (mut actor, peer) = living_peer().await;
        let attestors = attestors(&[("a", Answer::Says("a:1"))]);
        attestors.attest(&peer).await.unwrap();
        actor.end().unwrap();
        let error = attestors.attest(&peer).await.unwrap_err();
        assert_eq!(error.reason(), "PEER_GONE");
        assert!(error.is_refusal());
    }

    #[tokio::test]
    async fn selectors_are_bounded() {
        let (_actor, peer) = living_peer().await;
        let many = attestors(&[("a", Answer::SaysMany(MAX_SELECTORS + 9))]);
        assert_eq!(many.attest(&peer).await.unwrap().len(), MAX_SELECTORS);
    }

    #[test]
    fn two_attestors_of_one_name_are_refused() {
        let twice = vec![
            Arc::new(Played("a", Answer::Nothing)) as Arc<dyn WorkloadAttestor>,
            Arc::new(Played("a", Answer::Fails)),
        ];
        assert_eq!(
            WorkloadAttestors::new(twice).unwrap_err(),
            DuplicateName("a")
        );
    }
}
