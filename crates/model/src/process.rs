//! A process named so that no other process is ever meant.

use std::fmt;
use std::str::FromStr;

/// A process of one boot of one host: a pid alone is reused, this is not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Process id in the agent's pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: [u8; 16],
}

/// Text that names no process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no process: expected pid.start-time.boot-id")]
pub struct ProcessError(String);

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}.{}",
            self.pid,
            self.start_time,
            hex::encode(self.boot_id)
        )
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Process {
    type Err = ProcessError;
    fn from_str(text: &str) -> Result<Self, ProcessError> {
        let parse = || {
            let mut parts = text.splitn(3, '.');
            let pid = parts.next()?.parse().ok()?;
            let start_time = parts.next()?.parse().ok()?;
            let boot_id = hex::decode(parts.next()?).ok()?.try_into().ok()?;
            Some(Self {
                pid,
                start_time,
                boot_id,
            })
        };
        parse().ok_or_else(|| ProcessError(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let process = Process {
            pid: 7,
            start_time: 99,
            boot_id: [0xab; 16],
        };
        assert_eq!(process.to_string().parse::<Process>().unwrap(), process);
        assert!("7.99".parse::<Process>().is_err());
    }
}
