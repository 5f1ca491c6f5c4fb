//! Key bytes that leave no copies.

use zeroize::Zeroizing;

/// Key bytes: boxed so that moves leave no copies, wiped on drop, silent in logs.
pub(crate) struct Secret<const N: usize>(Box<Zeroizing<[u8; N]>>);

impl<const N: usize> Secret<N> {
    /// Written in place by `fill`.
    pub(crate) fn filled(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut bytes = Box::new(Zeroizing::new([0; N]));
        fill(&mut bytes);
        Self(bytes)
    }

    /// The one way to the bytes.
    pub(crate) fn expose(&self) -> &[u8; N] {
        &self.0
    }
}
