//! What is measured on, and what it spends.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};

/// A tick of `/proc/self/stat`: Linux shows it in hundredths of a second on every machine of ours.
const TICK: Duration = Duration::from_millis(10);

/// Cores, processor, memory, kernel, and the file system that state is on; one line.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} cores ({processor}), {} GB, Linux {}, state on {}",
        memory.div_ceil(1_000_000),
        kernel.trim(),
        file_system().unwrap_or_else(|| "an unknown file system".to_owned()),
    )
}

/// The value of a `key: value` line.
fn field(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// The type of the file system that temporary folders are on.
fn file_system() -> Option<String> {
    let folder = std::env::temp_dir().canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mut found: Option<(&str, &str)> = None;
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(place), Some(kind)) = (words.next(), words.next()) else {
            continue;
        };
        let longer = found.is_none_or(|(before, _)| place.len() >= before.len());
        if folder.starts_with(place) && longer {
            found = Some((place, kind));
        }
    }
    found.map(|(_, kind)| kind.to_owned())
}

/// Processor time that this process and the children it has waited for have used.
pub(crate) fn processor_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field is the name, in brackets, and may hold anything.
    let (_, rest) = stat.rsplit_once(')').context("a strange /proc/self/stat")?;
    ticks(rest.split_whitespace().skip(11).take(4))
}

/// Processor time that this process has used, to the nanosecond.
pub(crate) fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}

/// Processor time that this process and its signers have used.
pub(crate) fn issuing_time() -> anyhow::Result<Duration> {
    let mut sum = processor_time()?;
    for pid in signers()? {
        sum += processor_time_of(pid)?;
    }
    Ok(sum)
}

/// The signers that this process started.
fn signers() -> anyhow::Result<Vec<u32>> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")? {
        let name = process?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that has ended meanwhile is no signer.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let parent = rest.split_whitespace().nth(1);
        if name.ends_with("(taskmint-signer") && parent == Some(own.as_str()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Processor time that a process has used, without its children.
pub(crate) fn processor_time_of(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("a strange /proc/pid/stat")?;
    ticks(rest.split_whitespace().skip(11).take(2))
}

/// Processor time that all processes have used, and other machines on the same hardware.
fn all_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.split_whitespace().skip(1).take(8).enumerate();
    // The fourth and the fifth are idle time.
    ticks(fields.filter_map(|(i, field)| (i != 3 && i != 4).then_some(field)))
}

fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> anyhow::Result<Duration> {
    let sum = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(TICK.saturating_mul(u32::try_from(sum)?))
}

/// How much of the machine others use, from its making on.
pub(crate) struct Others {
    since: Instant,
    own: Duration,
    all: Duration,
}

impl Others {
    pub(crate) fn now() -> anyhow::Result<Self> {
        Ok(Self {
            since: Instant::now(),
            own: issuing_time()?,
            all: all_time()?,
        })
    }

    /// Their share of all cores.
    pub(crate) fn share(&self) -> anyhow::Result<f64> {
        let own = issuing_time()?.saturating_sub(self.own);
        let others = all_time()?.saturating_sub(self.all).saturating_sub(own);
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Ok(others.as_secs_f64() / (self.since.elapsed().as_secs_f64() * cores))
    }
}

/// The uid of this process.
pub(crate) fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Resident memory of a process, in megabytes.
pub(crate) fn memory(pid: u32) -> anyhow::Result<f64> {
    let resident = field(&format!("/proc/{pid}/status"), "VmRSS").context("the process is gone")?;
    let kibi: f64 = resident.trim_end_matches("kB").trim().parse()?;
    Ok(kibi * 1024.0 / 1e6)
}
