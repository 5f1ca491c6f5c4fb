//! Pages for secrets, between pages that nobody may touch.

#![expect(unsafe_code, reason = "maps, locks, wipes and unmaps memory")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use crate::protection::Protection;

/// Untouchable octets on either side. More than a page, since C code does not probe its frames.
const GUARD: usize = 64 << 10;

/// Pages that are wiped, then unmapped. All zeroes at first.
pub(crate) struct Region {
    reservation: Reservation,
    protection: Protection,
}

// SAFETY: a region owns its pages; whoever hands out references into them answers for sharing.
unsafe impl Send for Region {}
// SAFETY: as above; it has no state of its own that changes.
unsafe impl Sync for Region {}

/// Address space: guard, `len` octets, guard. Unmapped when dropped.
struct Reservation {
    base: NonNull<u8>,
    len: usize,
}

impl Region {
    /// At least `len` octets, protected as well as the kernel can, and no better than `best`.
    ///
    /// # Errors
    /// When there is no memory.
    pub(crate) fn map(len: usize, best: Protection) -> io::Result<Self> {
        let len = len.max(1).next_multiple_of(page());
        let ways: &[Protection] = match best {
            Protection::Secret => &[Protection::Secret, Protection::Locked, Protection::Unlocked],
            Protection::Locked => &[Protection::Locked, Protection::Unlocked],
            Protection::Unlocked => &[Protection::Unlocked],
            Protection::Ordinary => &[Protection::Ordinary],
        };
        let mut result = Err(io::ErrorKind::OutOfMemory.into());
        for protection in ways {
            result = Self::attempt(len, *protection);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn attempt(len: usize, protection: Protection) -> io::Result<Self> {
        let reservation = Reservation::new(len)?;
        match protection {
            Protection::Secret => {
                if let Err(error) = reservation.map_secret() {
                    // A mapping that failed may have left a hole in the reservation, which another
                    // thread may fill: unmapping it could hit a stranger. Address space is cheap.
                    std::mem::forget(reservation);
                    return Err(error);
                }
            }
            Protection::Locked | Protection::Unlocked | Protection::Ordinary => {
                reservation.open()?;
            }
        }
        if protection == Protection::Locked {
            reservation.lock()?;
        }
        if protection != Protection::Ordinary {
            reservation.advise(libc::MADV_DONTDUMP)?;
            // Also for memfd_secret: a forked child could read a shared mapping.
            reservation.advise(libc::MADV_DONTFORK)?;
        }
        Ok(Self {
            reservation,
            protection,
        })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.reservation.start()
    }

    /// Octets between the guards.
    pub(crate) fn len(&self) -> usize {
        self.reservation.len
    }

    pub(crate) fn protection(&self) -> Protection {
        self.protection
    }

    /// Overwrites everything with zeroes.
    ///
    /// # Safety
    /// Nobody holds a reference into it, or runs on it.
    pub(crate) unsafe fn wipe(&self) {
        // SAFETY: the whole range is ours and writable, and the caller says that it is unused.
        unsafe { wipe(self.start(), self.len()) };
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: whoever drops a region no longer refers to what is in it.
        unsafe { self.wipe() };
    }
}

/// Overwrites with zeroes in a way that no compiler leaves out.
///
/// # Safety
/// The range is writable, and nobody reads it meanwhile.
pub(crate) unsafe fn wipe(at: NonNull<u8>, len: usize) {
    // SAFETY: the caller's promise. The C library guarantees that this store happens.
    unsafe { libc::explicit_bzero(at.as_ptr().cast(), len) };
}

impl Reservation {
    fn new(len: usize) -> io::Result<Self> {
        let all = len
            .checked_add(2 * guard())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses disturbs nobody.
        let base = unsafe { libc::mmap(ptr::null_mut(), all, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len })
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: the guard lies within the reservation.
        unsafe { self.base.add(guard()) }
    }

    /// Puts a memfd_secret file between the guards, and closes its descriptor at once: whoever got
    /// hold of that could map the same pages (`pidfd_getfd`).
    fn map_secret(&self) -> io::Result<()> {
        let length = libc::off_t::try_from(self.len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: the call takes a number and returns a descriptor.
        let descriptor = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        let descriptor = checked(descriptor)?;
        let descriptor = libc::c_int::try_from(descriptor).map_err(io::Error::other)?;
        // SAFETY: the descriptor is new, so it is ours to own.
        let file = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // SAFETY: the descriptor is open.
        checked(unsafe { libc::ftruncate(file.as_raw_fd(), length) }.into())?;
        // SAFETY: what is replaced is our own reservation, to which nobody refers yet.
        let mapped = unsafe {
            libc::mmap(
                self.start().as_ptr().cast(),
                self.len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                file.as_raw_fd(),
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Makes what is between the guards ordinary memory.
    fn open(&self) -> io::Result<()> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is our own reservation, to which nobody refers yet.
        let done = unsafe { libc::mprotect(self.start().as_ptr().cast(), self.len, access) };
        checked(done.into()).map(drop)
    }

    fn lock(&self) -> io::Result<()> {
        // SAFETY: locking changes nothing of what is in memory.
        let done = unsafe { libc::mlock(self.start().as_ptr().cast(), self.len) };
        checked(done.into()).map(drop)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: both kinds of advice used here leave memory as it is.
        let done = unsafe { libc::madvise(self.start().as_ptr().cast(), self.len, advice) };
        checked(done.into()).map(drop)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the range is ours, guards and all, and its owner is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len + 2 * guard()) };
    }
}

fn guard() -> usize {
    GUARD.next_multiple_of(page())
}

fn page() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        // SAFETY: the call only reads a constant of the system.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).unwrap_or(4096).max(4096)
    })
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
