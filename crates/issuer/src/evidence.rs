//! How far each start of the signer is known to have counted (P24): noted in the audit trail, so that a
//! journal whose end was cut off can be told from one that ends there, also when the signer has long
//! been started again.

use parking_lot::Mutex;
use taskmint_mint::journal::TAIL_ACTION;
use taskmint_mint::{Refusal, Signed, SignerTail};
use taskmint_store::{Change, Commit, CommitError};

use crate::{Issuer, Principal};

/// Where the chain of each start stood last. Those before the last are forgotten once they are noted.
#[derive(Debug, Default)]
pub(crate) struct Evidence(Mutex<Vec<Seen>>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    tail: SignerTail,
    noted: bool,
}

impl Evidence {
    /// Remembers the furthest that these answers prove.
    pub(crate) fn learn(&self, answers: &[Result<Signed, Refusal>]) {
        let tails = answers.iter().flatten().map(|signed| signed.tail);
        let Some(tail) = tails.max_by_key(|tail| tail.counter) else {
            return;
        };
        let mut seen = self.0.lock();
        match seen
            .iter_mut()
            .find(|seen| seen.tail.instance == tail.instance)
        {
            Some(known) if known.tail.counter >= tail.counter => {}
            Some(known) => (known.tail, known.noted) = (tail, false),
            None => seen.push(Seen { tail, noted: false }),
        }
    }

    /// What is to be noted.
    fn unnoted(&self) -> Vec<SignerTail> {
        let seen = self.0.lock();
        let unnoted = seen.iter().filter(|seen| !seen.noted);
        unnoted.map(|seen| seen.tail).collect()
    }

    fn note(&self, noted: &[SignerTail]) {
        let mut seen = self.0.lock();
        for seen in seen.iter_mut() {
            seen.noted |= noted.contains(&seen.tail);
        }
        let last = seen.last().map(|seen| seen.tail.instance);
        seen.retain(|seen| !seen.noted || Some(seen.tail.instance) == last);
    }
}

impl Issuer {
    /// Notes how far each start of the signer has counted, where that is further than was noted.
    pub async fn note_evidence(&self) {
        let tails = self.evidence.unnoted();
        if tails.is_empty() {
            return;
        }
        match self.commit_evidence(&tails).await {
            Ok(()) => self.evidence.note(&tails),
            // The next time is soon.
            Err(error) => tracing::error!(%error, "how far the signer counted is not noted"),
        }
    }

    async fn commit_evidence(&self, tails: &[SignerTail]) -> Result<(), CommitError> {
        let now = self.clock.now();
        let lines = tails.iter().map(|tail| {
            let (instance, hash) = (hex::encode(tail.instance), hex::encode(tail.hash));
            let words = format!("{instance} {} {hash}", tail.counter);
            Change::Audit(self.audit(&Principal::Issuer, TAIL_ACTION, words, None, now))
        });
        let commit = Commit {
            expect: Vec::new(),
            changes: lines.collect(),
        };
        self.store.commit(commit).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use taskmint_model::AuthorityId;

    use super::*;

    fn signed(instance: u8, counter: u64) -> Result<Signed, Refusal> {
        Ok(Signed {
            bytes: Vec::new(),
            signature: Vec::new(),
            authority: AuthorityId::from_octets([1; 16]),
            tail: SignerTail {
                instance: [instance; 16],
                counter,
                hash: [0; 32],
            },
        })
    }

    fn counters(tails: &[SignerTail]) -> Vec<(u8, u64)> {
        tails
            .iter()
            .map(|tail| (tail.instance[0], tail.counter))
            .collect()
    }

    #[test]
    fn the_furthest_of_each_start_is_to_be_noted_once() {
        let evidence = Evidence::default();
        evidence.learn(&[]);
        evidence.learn(&[Err(Refusal::Away)]);
        assert!(evidence.unnoted().is_empty());
        evidence.learn(&[signed(1, 4), signed(1, 5), Err(Refusal::Key)]);
        // Answers of another worker may come later.
        evidence.learn(&[signed(1, 3)]);
        evidence.learn(&[signed(2, 1)]);
        let unnoted = evidence.unnoted();
        assert_eq!(counters(&unnoted), [(1, 5), (2, 1)]);
        // What is signed while that is written is not noted with it.
        evidence.learn(&[signed(2, 2)]);
        evidence.note(&unnoted);
        let unnoted = evidence.unnoted();
        assert_eq!(counters(&unnoted), [(2, 2)]);
        evidence.note(&unnoted);
        assert!(evidence.unnoted().is_empty());
        assert_eq!(evidence.0.lock().len(), 1);
    }
}
