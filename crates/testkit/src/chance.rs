//! Randomness that repeats.

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use taskmint_model::Entropy;

/// The same octets for the same seed, in the order in which they are drawn.
#[derive(Debug)]
pub struct SeededEntropy {
    seed: u64,
    drawn: Mutex<u64>,
}

impl SeededEntropy {
    /// A source of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            drawn: Mutex::new(0),
        }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        let mut drawn = self.drawn.lock();
        for chunk in buffer.chunks_mut(32) {
            let block = Sha256::new_with_prefix(self.seed.to_be_bytes())
                .chain_update(drawn.to_be_bytes())
                .finalize();
            chunk
                .iter_mut()
                .zip(block)
                .for_each(|(to, from)| *to = from);
            *drawn += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(entropy: &dyn Entropy) -> [u8; 40] {
        entropy.array()
    }

    #[test]
    fn one_seed_repeats_and_another_differs_and_so_does_the_next_draw() {
        let first = SeededEntropy::new(1);
        let drawn = draw(&first);
        assert_eq!(drawn, draw(&SeededEntropy::new(1)));
        assert_ne!(drawn, draw(&SeededEntropy::new(2)));
        assert_ne!(drawn, draw(&first));
    }
}
