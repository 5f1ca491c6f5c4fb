//! Randomness as a port.

/// Where random octets come from. Tests pass a seeded one.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `buffer` with octets that nobody can predict.
    fn fill(&self, buffer: &mut [u8]);
}

/// The kernel's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        // A kernel without randomness can't run an issuer: going on would mint guessable ids.
        if getrandom::fill(buffer).is_err() {
            std::process::abort();
        }
    }
}

impl dyn Entropy {
    /// An array of random octets.
    pub fn array<const N: usize>(&self) -> [u8; N] {
        let mut array = [0; N];
        self.fill(&mut array);
        array
    }

    /// A number from 0 to 1.
    pub fn fraction(&self) -> f64 {
        f64::from(u32::from_be_bytes(self.array())) / f64::from(u32::MAX)
    }
}
