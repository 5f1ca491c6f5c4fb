//! The signer's chain: one link per signature, so that what was signed can be counted (P24).

use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use taskmint_mint::SignerTail;
use taskmint_model::Entropy;

/// What a signature was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A certificate of a task, or of the authority itself; named by its serial.
    Certificate,
    /// A token; named by its `jti`.
    Token,
    /// A head; named by its sequence number.
    Head,
    /// A checkpoint; named by its sequence number.
    Checkpoint,
    /// A CRL; named by its number.
    Crl,
    /// A status list; named by bucket and time.
    StatusList,
}

/// Counts and chains the signatures of one start.
pub(crate) struct Chain(Mutex<SignerTail>);

impl Chain {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        Self(Mutex::new(SignerTail {
            instance: entropy.array(),
            counter: 0,
            hash: [0; 32],
        }))
    }

    /// Adds a link, before the signature is made: a head names the tail that includes it.
    pub(crate) fn add(&self, what: What, name: &[u8; 20]) -> SignerTail {
        let mut tail = self.0.lock();
        tail.counter += 1;
        tail.hash = link(&tail, what, name);
        *tail
    }

    #[cfg(test)]
    pub(crate) fn tail(&self) -> SignerTail {
        *self.0.lock()
    }
}

/// SHA-256 over instance, counter, kind, name and the hash before; all of fixed length.
fn link(tail: &SignerTail, what: What, name: &[u8; 20]) -> [u8; 32] {
    let kind = match what {
        What::Certificate => 1,
        What::Token => 2,
        What::Head => 3,
        What::Checkpoint => 4,
        What::Crl => 5,
        What::StatusList => 6,
    };
    let mut context = Context::new(&SHA256);
    context.update(b"taskmint signature\0");
    context.update(&tail.instance);
    context.update(&tail.counter.to_be_bytes());
    context.update(&[kind]);
    context.update(name);
    context.update(&tail.hash);
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
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
