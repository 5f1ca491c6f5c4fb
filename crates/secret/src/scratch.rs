//! Large working areas of a moment.

#![expect(
    unsafe_code,
    reason = "keeps values in memory that it does not own by type"
)]

use std::{io, slice};

use crate::protection::{Protection, best, note_scratch};
use crate::region::Region;

/// Many values to work on for a moment, such as the blocks of a passphrase's hash: too large for
/// `memfd_secret`, so locked where RLIMIT_MEMLOCK has room, kept out of dumps and children, and
/// wiped on drop.
pub struct Scratch<T: Copy> {
    region: Region,
    values: *mut T,
    count: usize,
}

impl<T: Copy> Scratch<T> {
    /// `count` times `value`.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(count: usize, value: T) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= 4096, "pages are not aligned for it") };
        let len = count
            .checked_mul(size_of::<T>())
            .filter(|len| isize::try_from(*len).is_ok())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let region = Region::map(len, best().min(Protection::Locked))?;
        note_scratch(region.protection());
        let values = region.start().as_ptr().cast::<T>();
        for index in 0..count {
            // SAFETY: the region has room for `count` values and is aligned to a page.
            unsafe { values.add(index).write(value) };
        }
        Ok(Self {
            region,
            values,
            count,
        })
    }

    /// How well this one is protected.
    pub fn protection(&self) -> Protection {
        self.region.protection()
    }
}

impl<T: Copy> AsMut<[T]> for Scratch<T> {
    fn as_mut(&mut self) -> &mut [T] {
        // SAFETY: `new` wrote `count` values there, and the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.values, self.count) }
    }
}
