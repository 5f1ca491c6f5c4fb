//! Secret octets whose number is known only when they are there.

#![expect(
    unsafe_code,
    reason = "the kernel writes into memory that it does not own by type"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::{fmt, io, slice};

use crate::arena::{ARENA, Slot};

/// Octets in secret memory, such as a key file's content or a passphrase; wiped on drop, silent in
/// logs.
pub struct SecretBuffer {
    slot: Slot,
    len: usize,
}

impl SecretBuffer {
    /// Reads a descriptor to its end, straight into secret memory.
    ///
    /// The descriptor stays open and where the read left it: who may read the file there again is
    /// the caller's to decide.
    ///
    /// # Errors
    /// When it can't be read, or with [`io::ErrorKind::FileTooLarge`] when it holds more than
    /// `limit` octets.
    pub fn read_from(descriptor: impl AsFd, limit: usize) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        // One more than may be there, to notice it.
        let room = limit.checked_add(1).ok_or_else(too_large)?;
        let slot = ARENA.take(room);
        let mut buffer = Self { slot, len: 0 };
        loop {
            match buffer.read(descriptor.as_fd(), room - buffer.len) {
                Ok(0) => return Ok(buffer),
                Ok(more) => buffer.len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if buffer.len > limit {
                return Err(too_large());
            }
        }
    }

    /// The octets. Look at them on the secret stack only, or copies stay behind.
    pub fn expose(&self) -> &[u8] {
        // SAFETY: the first `len` octets of the slot were read, and the rest is zeroes.
        unsafe { slice::from_raw_parts(self.slot.start().as_ptr(), self.len) }
    }

    /// How many there are; that is no secret.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn read(&mut self, descriptor: BorrowedFd<'_>, room: usize) -> io::Result<usize> {
        debug_assert!(self.len + room <= self.slot.len());
        // SAFETY: the slot has `room` octets behind the first `len`, and nobody refers to them.
        let read = unsafe {
            let at = self.slot.start().add(self.len);
            libc::read(descriptor.as_raw_fd(), at.as_ptr().cast(), room)
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

impl fmt::Debug for SecretBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBuffer({} octets)", self.len)
    }
}
