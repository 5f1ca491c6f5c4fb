//! The signer's chain: one link per signature, so that what was signed can be counted (P24).
//!
//! A process of its own keeps the links until they are in its journal; anywhere else nobody would
//! ever take them.

use parking_lot::Mutex;
use taskmint_mint::SignerTail;
use taskmint_mint::journal::{Link, What};
use taskmint_model::Entropy;

use crate::core::Core;

/// Counts and chains the signatures of one start.
pub(crate) struct Chain(Mutex<State>);

struct State {
    tail: SignerTail,
    /// Links that nobody took yet; none unless somebody will.
    kept: Option<Vec<Link>>,
}

impl Chain {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        Self(Mutex::new(State {
            tail: SignerTail {
                instance: entropy.array(),
                counter: 0,
                hash: [0; 32],
            },
            kept: None,
        }))
    }

    /// Adds a link, before the signature is made: a head names the tail that includes it.
    pub(crate) fn add(&self, what: What, name: &[u8; 20]) -> SignerTail {
        let mut state = self.0.lock();
        let tail = &mut state.tail;
        tail.counter += 1;
        tail.hash = taskmint_mint::journal::link(tail, what, name);
        let tail = *tail;
        if let Some(kept) = &mut state.kept {
            let name = *name;
            kept.push(Link { tail, what, name });
        }
        tail
    }

    #[cfg(test)]
    pub(crate) fn tail(&self) -> SignerTail {
        self.0.lock().tail
    }
}

impl Core {
    /// Keeps a link of every signature from here on, for [`Self::take_links`].
    pub fn keep_links(&self) {
        self.chain.0.lock().kept.get_or_insert_default();
    }

    /// The links of what was signed since the last call, in order: to be in the journal before any
    /// of it leaves (P24).
    pub fn take_links(&self) -> Vec<Link> {
        let mut state = self.chain.0.lock();
        state.kept.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Names this start.
    pub fn instance(&self) -> [u8; 16] {
        self.chain.0.lock().tail.instance
    }
}

/// A shorter name, with zeroes behind.
pub(crate) fn padded(name: &[u8]) -> [u8; 20] {
    let mut padded = [0; 20];
    padded
        .iter_mut()
        .zip(name)
        .for_each(|(to, from)| *to = *from);
    padded
}

#[cfg(test)]
mod tests {
    use taskmint_testkit::SeededEntropy;

    use super::*;

    #[test]
    fn every_signature_moves_the_tail_and_its_kind_and_name_count() {
        let chain = || Chain::new(&SeededEntropy::new(3));
        let (one, two, three) = (chain(), chain(), chain());
        let a = one.add(What::Certificate, &[1; 20]);
        assert_eq!(a.counter, 1);
        assert_eq!(two.add(What::Certificate, &[1; 20]), a);
        assert_ne!(three.add(What::Token, &[1; 20]).hash, a.hash);
        assert_ne!(one.add(What::Certificate, &[1; 20]).hash, a.hash);
        assert_eq!(one.tail().counter, 2);
    }

    #[test]
    fn two_starts_have_two_instances() {
        let entropy = SeededEntropy::new(3);
        assert_ne!(
            Chain::new(&entropy).tail().instance,
            Chain::new(&entropy).tail().instance
        );
    }
}
