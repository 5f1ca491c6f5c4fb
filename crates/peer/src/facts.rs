//! What `/proc` says about a process at one look.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::{fmt, io};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;

use crate::ProcessRef;
use crate::error::ProcessError;
use crate::procfs::{ProcDir, path_of};

/// Uids or gids of a process, as this user namespace sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ids {
    /// Who started it.
    pub real: u32,
    /// Whose rights it uses.
    pub effective: u32,
    /// Whose rights it may take up again.
    pub saved: u32,
    /// Whose rights it uses on files.
    pub filesystem: u32,
}

/// Facts of a process, all of the same one, read while it lived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Which process.
    pub process: ProcessRef,
    /// Its parent's pid; 0 where the parent is outside this pid namespace.
    pub parent: u32,
    /// Its uids.
    pub uid: Ids,
    /// Its gids.
    pub gid: Ids,
    /// Its supplementary groups, in the kernel's order.
    pub groups: Vec<u32>,
    /// Its path in the unified cgroup hierarchy.
    pub cgroup: Option<String>,
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// The file it runs.
    pub executable: Result<Executable, ExecutableError>,
}

/// Inodes of namespaces; none where the reader may not trace the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Namespaces {
    /// `ns/cgroup`.
    pub cgroup: Option<u64>,
    /// `ns/mnt`.
    pub mount: Option<u64>,
    /// `ns/net`.
    pub network: Option<u64>,
    /// `ns/pid`.
    pub pid: Option<u64>,
    /// `ns/user`.
    pub user: Option<u64>,
}

/// A file that a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// Where the process's mount namespace has it: its own word, for whoever makes a user
    /// namespace can bind any file to any path.
    pub path: PathBuf,
    /// Which file it is: the kernel's word.
    pub file: FileIdentity,
    /// File mode, with the setuid and setgid bits.
    pub mode: u32,
}

/// A file and its content, told apart as far as metadata can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIdentity {
    /// Device, major number in the upper half.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Time of the last change of content or metadata: seconds since 1970 and nanoseconds.
    pub changed: (i64, u32),
    /// Length in bytes.
    pub size: u64,
}

/// Why nothing is known of a process's executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExecutableError {
    /// It has none: a kernel thread, or its first thread has ended.
    #[error("the process runs no file")]
    Missing,
    /// The kernel refused: another user's process, and the reader has no CAP_SYS_PTRACE, or a
    /// process that made itself undumpable.
    #[error("the executable can't be read: {}", io::Error::from_raw_os_error(*errno))]
    Unreadable {
        /// What the kernel said.
        errno: i32,
    },
}

/// The executable of a process, held open, so that its inode can't be given to another file.
#[derive(Debug)]
pub struct OpenExecutable {
    file: OwnedFd,
    facts: Executable,
}

impl Ids {
    /// Whether all four are `id`.
    pub fn are_all(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved, self.filesystem]
            .iter()
            .all(|own| *own == id)
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.are_all(self.real) {
            return write!(f, "{}", self.real);
        }
        write!(
            f,
            "{}/{}/{}/{}",
            self.real, self.effective, self.saved, self.filesystem
        )
    }
}

impl ProcessFacts {
    pub(crate) fn read(dir: &ProcDir, process: ProcessRef) -> Result<Self, ProcessError> {
        let stat = dir.stat()?;
        if stat.start_time != process.start_time {
            return Err(ProcessError::Gone(process.pid));
        }
        let status = dir.status()?;
        Ok(Self {
            process,
            parent: stat.parent,
            uid: status.uid,
            gid: status.gid,
            groups: status.groups,
            cgroup: dir.cgroup()?,
            namespaces: Namespaces::read(dir),
            executable: OpenExecutable::open(dir).map(|open| open.facts),
        })
    }
}

impl Namespaces {
    /// Those of this process.
    ///
    /// # Errors
    /// If `/proc` can't be read.
    pub fn own() -> Result<Self, ProcessError> {
        ProcDir::open(std::process::id()).map(|dir| Self::read(&dir))
    }

    fn read(dir: &ProcDir) -> Self {
        Self {
            cgroup: dir.namespace("cgroup"),
            mount: dir.namespace("mnt"),
            network: dir.namespace("net"),
            pid: dir.namespace("pid"),
            user: dir.namespace("user"),
        }
    }
}

impl Executable {
    /// Whether running it changes the uid.
    pub fn is_setuid(&self) -> bool {
        self.mode & 0o4000 != 0
    }

    /// Whether running it changes the gid.
    pub fn is_setgid(&self) -> bool {
        self.mode & 0o2000 != 0
    }
}

impl FileIdentity {
    /// Whether both are one inode, whatever has been done to it in between.
    pub fn same_inode(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// The identity of an open file.
    ///
    /// # Errors
    /// As `statx`.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(identity(&stat_without_asking(file.as_fd())?))
    }
}

impl OpenExecutable {
    pub(crate) fn open(dir: &ProcDir) -> Result<Self, ExecutableError> {
        // O_PATH reads nothing and asks no file system, so a process whose binary lies on a FUSE
        // mount of its own can't hold up whoever looks at it.
        let file = openat(dir, "exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let stat = stat_without_asking(file.as_fd())?;
        // From the descriptor, not from a second look at `exe`: the path and the file belong
        // together even if the process executes another one right now.
        let path = path_of(file.as_fd())?;
        let facts = Executable {
            path,
            file: identity(&stat),
            mode: u32::from(stat.stx_mode),
        };
        Ok(Self { file, facts })
    }

    /// What is known of it.
    pub fn facts(&self) -> &Executable {
        &self.facts
    }

    /// Opens it for reading. May block as long as its file system likes.
    ///
    /// # Errors
    /// As `open`: the reader needs the right to read the file.
    pub fn reader(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(File::from(openat(CWD, path, flags, Mode::empty())?))
    }
}

impl From<Errno> for ExecutableError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::SRCH => Self::Missing,
            _ => Self::Unreadable {
                errno: errno.raw_os_error(),
            },
        }
    }
}

fn stat_without_asking(file: impl AsFd) -> Result<Statx, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, c"", flags, StatxFlags::BASIC_STATS)?;
    // What the file system did not fill in would compare equal to anything else left at zero.
    let known = StatxFlags::from_bits_retain(stat.stx_mask);
    if known.contains(StatxFlags::INO | StatxFlags::CTIME | StatxFlags::SIZE | StatxFlags::MODE) {
        Ok(stat)
    } else {
        Err(Errno::OPNOTSUPP)
    }
}

fn identity(stat: &Statx) -> FileIdentity {
    FileIdentity {
        device: (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor),
        inode: stat.stx_ino,
        changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        size: stat.stx_size,
    }
}
