//! Bounded reads below one `/proc/PID`.
//!
//! The folder is opened once and read through its descriptor, which the kernel ties to the
//! process and not to the number: after the process is gone reads fail, they never reach an heir
//! of the pid. What ties the folder to a pidfd is in `held.rs`.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use crate::error::ProcessError;
use crate::facts::Ids;

const STAT_LIMIT: usize = 4 << 10;
/// 65,536 supplementary groups, the kernel's limit, take up to 11 bytes each.
const STATUS_LIMIT: usize = 1 << 20;
const CGROUP_LIMIT: usize = 64 << 10;

/// An open `/proc/PID`.
pub(crate) struct ProcDir {
    pid: u32,
    dir: OwnedFd,
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// 0 for the first process of a pid namespace.
    pub(crate) parent: u32,
    /// Clock ticks since boot.
    pub(crate) start_time: u64,
}

/// What `/proc/PID/status` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) uid: Ids,
    pub(crate) gid: Ids,
    pub(crate) groups: Vec<u32>,
}

impl ProcDir {
    pub(crate) fn open(pid: u32) -> Result<Self, ProcessError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()) {
            Ok(dir) => Ok(Self { pid, dir }),
            Err(errno) => Err(unreadable(pid, "/proc", errno)),
        }
    }

    pub(crate) fn stat(&self) -> Result<Stat, ProcessError> {
        let bytes = self.read("stat", STAT_LIMIT)?;
        parse_stat(&bytes).ok_or(ProcessError::Malformed {
            pid: self.pid,
            what: "stat",
        })
    }

    pub(crate) fn status(&self) -> Result<Status, ProcessError> {
        let bytes = self.read("status", STATUS_LIMIT)?;
        parse_status(&bytes).ok_or(ProcessError::Malformed {
            pid: self.pid,
            what: "status",
        })
    }

    /// The path in the unified cgroup hierarchy; none where there is no such hierarchy.
    pub(crate) fn cgroup(&self) -> Result<Option<String>, ProcessError> {
        match self.read("cgroup", CGROUP_LIMIT) {
            Ok(bytes) => Ok(parse_cgroup(&bytes)),
            // A kernel without cgroups has no such file; a process that is gone has no /proc
            // folder either, and whoever reads facts checks for that last.
            Err(ProcessError::Gone(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The inode of a namespace; none without the right to trace the process.
    pub(crate) fn namespace(&self, name: &str) -> Option<u64> {
        let link = readlinkat(&self.dir, format!("ns/{name}"), Vec::new()).ok()?;
        let text = link.to_str().ok()?;
        text.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
    }

    fn read(&self, name: &'static str, limit: usize) -> Result<Vec<u8>, ProcessError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&self.dir, name, flags, Mode::empty())
            .map_err(|errno| unreadable(self.pid, name, errno))?;
        let mut bytes = Vec::with_capacity(2 << 10);
        loop {
            if bytes.len() > limit {
                return Err(ProcessError::TooLarge {
                    pid: self.pid,
                    what: name,
                    limit,
                });
            }
            bytes.reserve(2 << 10);
            match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes)) {
                Ok(0) => return Ok(bytes),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(unreadable(self.pid, name, errno)),
            }
        }
    }
}

impl AsFd for ProcDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The path that a descriptor was opened by, as the kernel sees it from here.
pub(crate) fn path_of(file: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    use std::os::fd::AsRawFd;
    let link = readlinkat(
        CWD,
        format!("/proc/self/fd/{}", file.as_raw_fd()),
        Vec::new(),
    )?;
    Ok(PathBuf::from(OsString::from_vec(link.into_bytes())))
}

fn unreadable(pid: u32, what: &'static str, errno: Errno) -> ProcessError {
    match errno {
        Errno::NOENT | Errno::SRCH => ProcessError::Gone(pid),
        _ => ProcessError::Unreadable {
            pid,
            what,
            source: errno.into(),
        },
    }
}

fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    // The command name is the process's own choice and may hold `) R 1 `: only the last
    // parenthesis ends it.
    let name_end = bytes.iter().rposition(|b| *b == b')')?;
    let text = std::str::from_utf8(bytes.get(name_end + 1..)?).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let start_time = fields.nth(17)?.parse().ok()?;
    Some(Stat { parent, start_time })
}

fn parse_status(bytes: &[u8]) -> Option<Status> {
    // The kernel escapes line ends in the name, so no line can be forged; other bytes in it
    // need not be UTF-8.
    let field = |name: &[u8]| -> Option<Vec<u32>> {
        let line = bytes
            .split(|b| *b == b'\n')
            .find_map(|line| line.strip_prefix(name))?;
        std::str::from_utf8(line)
            .ok()?
            .split_ascii_whitespace()
            .map(|number| number.parse().ok())
            .collect()
    };
    let ids = |name: &[u8]| match field(name)?.as_slice() {
        &[real, effective, saved, filesystem] => Some(Ids {
            real,
            effective,
            saved,
            filesystem,
        }),
        _ => None,
    };
    Some(Status {
        uid: ids(b"Uid:")?,
        gid: ids(b"Gid:")?,
        groups: field(b"Groups:")?,
    })
}

fn parse_cgroup(bytes: &[u8]) -> Option<String> {
    let line = bytes
        .split(|b| *b == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"))?;
    String::from_utf8(line.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stat_line(name: &str, parent: u32, start_time: u64) -> String {
        let middle = "1 1 0 -1 4194560 2 0 0 0 0 0 0 0 20 0 1 0";
        format!("7 ({name}) S {parent} {middle} {start_time} 5 6 7\n")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn no_command_name_forges_a_parent_or_a_start_time(name in "[ -~]{0,15}") {
            let line = stat_line(&name, 41, 4242);
            let expected = Some(Stat { parent: 41, start_time: 4242 });
            prop_assert_eq!(parse_stat(line.as_bytes()), expected);
        }

        #[test]
        fn parsers_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (parse_stat(&bytes), parse_status(&bytes), parse_cgroup(&bytes));
        }
    }

    #[test]
    fn a_status_without_all_four_ids_is_refused() {
        let good = b"Name:\tx\\nUid:\t0\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";
        let status = parse_status(good).unwrap();
        assert_eq!(
            status.uid,
            Ids {
                real: 1,
                effective: 2,
                saved: 3,
                filesystem: 4
            }
        );
        assert_eq!(status.groups, [9, 10]);
        assert_eq!(
            parse_status(b"Uid:\t1\t2\t3\nGid:\t5\t6\t7\t8\nGroups:\t\n"),
            None
        );
        assert_eq!(
            parse_status(b"Uid:\t1\t2\t3\t-1\nGid:\t5\t6\t7\t8\nGroups:\t\n"),
            None
        );
    }

    #[test]
    fn only_the_unified_hierarchy_counts() {
        assert_eq!(
            parse_cgroup(b"4:cpu:/a\n0::/b/c\n").as_deref(),
            Some("/b/c")
        );
        assert_eq!(parse_cgroup(b"4:cpu:/a\n"), None);
    }

    #[test]
    fn a_pid_that_nobody_has_is_gone() {
        // Above the largest pid_max that the kernel accepts.
        assert!(ProcDir::open(4_194_305).err().unwrap().is_gone());
    }
}
