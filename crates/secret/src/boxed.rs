//! A value in secret memory.

#![expect(
    unsafe_code,
    reason = "keeps a value in memory that it does not own by type"
)]

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use crate::arena::{ARENA, Arena, Slot, UNIT};
use crate::stack::on_secret_stack;

/// A value in secret memory: made there, never moved, wiped on drop, silent in logs.
///
/// Only what lies in `T` itself is protected: a `T` that points to the heap has its secrets there.
pub struct SecretBox<T> {
    slot: Slot,
    holds: PhantomData<T>,
}

// SAFETY: a box owns its value, as `Box` does.
unsafe impl<T: Send> Send for SecretBox<T> {}
// SAFETY: a shared box gives shared references, and nothing else.
unsafe impl<T: Sync> Sync for SecretBox<T> {}

impl<T> SecretBox<T> {
    /// What `make` makes, which runs on the secret stack.
    pub fn make(make: impl FnOnce() -> T) -> Self {
        match Self::try_make(|| Ok::<T, Infallible>(make())) {
            Ok(made) => made,
            Err(never) => match never {},
        }
    }

    /// What `make` makes, which runs on the secret stack. Its error is public.
    ///
    /// # Errors
    /// As `make`.
    pub fn try_make<E>(make: impl FnOnce() -> Result<T, E>) -> Result<Self, E> {
        Self::try_make_in(&ARENA, make)
    }

    pub(crate) fn try_make_in<E>(
        arena: &'static Arena,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Self, E> {
        const { assert!(align_of::<T>() <= UNIT, "slots are not aligned for it") };
        let slot = arena.take(size_of::<T>());
        let at = slot.start().cast::<T>();
        on_secret_stack(|| {
            let value = make()?;
            // SAFETY: the slot is long enough, aligned, and nobody else's.
            unsafe { at.write(value) };
            Ok(())
        })?;
        Ok(Self {
            slot,
            holds: PhantomData,
        })
    }

    /// The one way to the value. Look at it on the secret stack only, or copies stay behind.
    pub fn expose(&self) -> &T {
        // SAFETY: it was written when the box was made, and lives as long as the box.
        unsafe { self.at().as_ref() }
    }

    fn at(&self) -> NonNull<T> {
        self.slot.start().cast()
    }
}

impl<const N: usize> SecretBox<[u8; N]> {
    /// Octets, written in place by `fill`, which runs on the secret stack.
    pub fn filled(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let slot = ARENA.take(N);
        let mut at = slot.start().cast::<[u8; N]>();
        // SAFETY: the slot is long enough, all zeroes, and nobody else's.
        on_secret_stack(|| fill(unsafe { at.as_mut() }));
        Self {
            slot,
            holds: PhantomData,
        }
    }
}

impl<T> Drop for SecretBox<T> {
    fn drop(&mut self) {
        // SAFETY: the value was written when the box was made, and is not used again; the slot
        // wipes what it leaves.
        unsafe { ptr::drop_in_place(self.at().as_ptr()) };
    }
}

impl<T> fmt::Debug for SecretBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBox({} octets)", size_of::<T>())
    }
}
