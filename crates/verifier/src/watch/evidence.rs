//! What a watcher shows for the fork that it reports (protocol P15): two statements that were signed
//! and can't both be true. Whoever hears of it need not take anybody's word.

use taskmint_client::in_words;
use taskmint_id::TrustDomain;
use taskmint_model::Timestamp;
use taskmint_status::watcher::Fork;
use taskmint_status::{Signed, Statement, StatementError};
use taskmint_wire::revocation as wire;

use super::keys::{KeyRefused, LogKeys};
use crate::Trust;

/// As many contradict each other.
const PAIR: usize = 2;

/// A larger one is not shown: it would not fit into a watcher's first message. A checkpoint of more
/// than 73 buckets is larger.
const LARGEST: usize = 3 << 10;

/// Octets of a log's hash, and of its name in the signer's journal.
const SHORT: usize = 8;

/// What was shown, judged by whoever has to hear of it.
#[derive(Debug)]
pub struct Evidence {
    shown: Vec<Result<Statement, Unfounded>>,
    generation: u32,
}

/// Why a statement proves nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfounded {
    /// Nobody vouches for the key.
    #[error("the key is refused")]
    Key(#[from] KeyRefused),
    /// Not the key's signature, or not legible.
    #[error("the statement is refused")]
    Statement(#[from] StatementError),
}

impl Evidence {
    /// Judges what a watcher of this trust domain's log, in this generation, has shown; beyond two
    /// nothing is looked at.
    pub fn read(
        shown: &[wire::Statement],
        (trust_domain, generation): (&TrustDomain, u32),
        trust: &Trust,
        now: Timestamp,
    ) -> Self {
        let mut keys = LogKeys::new(trust_domain.clone());
        let mut read = |shown: &wire::Statement| -> Result<Statement, Unfounded> {
            // Each names its own key, never that of the one before.
            keys.reconnected();
            let key = keys.named(&shown.key_certificate, trust, now)?;
            let signed = Signed::from_parts(shown.body.to_vec(), &shown.signature, &key.0)?;
            Ok(signed.open(&keys)?)
        };
        Self {
            shown: shown.iter().take(PAIR).map(&mut read).collect(),
            generation,
        }
    }

    /// Whether the log's key signed both, and no honest log can have made both. Of a generation that
    /// a restore has replaced it proves nothing any more.
    pub fn is_proof(&self) -> bool {
        let [Ok(one), Ok(other)] = &*self.shown else {
            return false;
        };
        let is_of_now = |said: &Statement| u32::from(said.generation.get()) == self.generation;
        one.contradicts(other) && is_of_now(one) && is_of_now(other)
    }

    /// A line for each, and what they come to. Empty where nothing was shown.
    pub fn in_words(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.shown.iter().map(line).collect();
        if !lines.is_empty() {
            let sum = match self.is_proof() {
                true => "proof: the log's key signed both, and they can't both be true",
                false => "no proof: this does not show two histories of the present log",
            };
            lines.push(sum.to_owned());
        }
        lines
    }
}

fn line(shown: &Result<Statement, Unfounded>) -> String {
    let said = match shown {
        Ok(said) => said,
        Err(why) => return format!("shown: {}", in_words(why)),
    };
    let (log, generation) = (said.log, said.generation.get());
    let hash = hex(said.log_hash.0.iter().take(SHORT));
    let (time, signer) = (Timestamp::from_millis(said.time.0), said.signer);
    format!(
        "shown: position {} of log {log}, generation {generation}, epoch {}, hash {hash}, of {time}, signature {} of signer {}",
        said.sequence,
        said.epoch,
        signer.counter,
        hex(&signer.instance),
    )
}

fn hex<'a>(octets: impl IntoIterator<Item = &'a u8>) -> String {
    let octets = octets.into_iter();
    octets.map(|octet| format!("{octet:02x}")).collect()
}

/// What goes upward of a fork.
pub(super) fn shown(fork: &Fork, keys: &LogKeys) -> Vec<wire::Statement> {
    let shown = fork.shown.iter();
    shown
        .filter_map(|shown| {
            let (body, signature, key) = shown.signed.parts();
            (body.len() <= LARGEST).then(|| wire::Statement {
                body: body.to_vec().into(),
                signature: signature.to_vec().into(),
                key_certificate: keys.certificate(key).to_vec().into(),
            })
        })
        .collect()
}
