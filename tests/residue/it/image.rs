//! Images of a process's memory, taken from outside.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

const PAGE: usize = 4096;

/// What a core says of each thread.
pub(crate) const REGISTERS: &str = "registers";

/// What was in memory at one moment.
pub(crate) struct Image {
    pub(crate) ranges: Vec<Range>,
    /// Names of ranges that have pages which nobody else may read.
    pub(crate) refused: Vec<String>,
}

/// Octets that lie behind one another.
pub(crate) struct Range {
    pub(crate) from: u64,
    pub(crate) name: String,
    pub(crate) octets: Vec<u8>,
}

/// Which ranges are worth reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All that have pages, whatever their rights.
    All,
    /// Those that the process may write.
    Writable,
}

struct Mapping {
    from: u64,
    to: u64,
    writable: bool,
    name: String,
    kilobytes: u64,
}

impl Image {
    /// By `/proc/PID/mem`.
    ///
    /// # Errors
    /// With [`io::ErrorKind::PermissionDenied`] when this process may not trace that one.
    pub(crate) fn of(pid: u32, extent: Extent) -> io::Result<Self> {
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let mappings = mappings(&fs::read_to_string(format!("/proc/{pid}/smaps"))?);
        let mut image = Self {
            ranges: Vec::new(),
            refused: Vec::new(),
        };
        for mapping in mappings {
            if mapping.kilobytes == 0 || (extent == Extent::Writable && !mapping.writable) {
                continue;
            }
            let mut octets = vec![0; usize::try_from(mapping.to - mapping.from).unwrap()];
            let whole = memory.read_exact_at(&mut octets, mapping.from).is_ok();
            if whole || read_pages(&memory, &mut octets, mapping.from) {
                image.ranges.push(Range {
                    from: mapping.from,
                    name: mapping.name,
                    octets,
                });
            } else {
                image.refused.push(mapping.name);
            }
        }
        Ok(image)
    }

    /// As [`Image::of`] for what may be written, while the process stands still wherever it is.
    pub(crate) fn of_stopped(pid: u32) -> io::Result<Self> {
        let process = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        kill_process(process, Signal::STOP)?;
        wait_for(|| all_stopped(pid));
        let image = Self::of(pid, Extent::Writable);
        kill_process(process, Signal::CONT)?;
        image
    }

    /// A core file: its notes, which hold registers, under the name [`REGISTERS`].
    pub(crate) fn of_core(path: &Path) -> io::Result<Self> {
        let octets = fs::read(path)?;
        assert_eq!(octets[..6], *b"\x7fELF\x02\x01", "no core of 64 bits");
        let number = |at: usize| u64::from_le_bytes(octets[at..][..8].try_into().unwrap());
        let short = |at: usize| usize::from(u16::from_le_bytes([octets[at], octets[at + 1]]));
        let (table, entry, count) = (number(32), short(54), short(56));
        let headers = (0..count).map(|at| usize::try_from(table).unwrap() + at * entry);
        let ranges = headers.map(|header| {
            let (at, len) = (number(header + 8), number(header + 32));
            let is_note = octets[header] == 4;
            let name = if is_note { REGISTERS } else { "memory" };
            Range {
                from: number(header + 16),
                name: name.to_owned(),
                octets: octets[usize::try_from(at).unwrap()..][..usize::try_from(len).unwrap()]
                    .to_vec(),
            }
        });
        Ok(Self {
            ranges: ranges.collect(),
            refused: Vec::new(),
        })
    }

    /// What `gcore` writes of a process; `None` where there is none.
    pub(crate) fn by_gcore(pid: u32, folder: &Path) -> Option<Self> {
        let prefix = folder.join("gcore");
        let mut command = Command::new("gcore");
        let said = command.arg("-o").arg(&prefix).arg(pid.to_string()).output();
        let said = said.ok()?;
        let path = folder.join(format!("gcore.{pid}"));
        assert!(path.exists(), "gcore: {said:?}");
        let image = Self::of_core(&path).unwrap();
        fs::remove_file(path).unwrap();
        Some(image)
    }

    pub(crate) fn len(&self) -> usize {
        self.ranges.iter().map(|range| range.octets.len()).sum()
    }
}

/// Page by page, as some ranges end beyond their file. Whether any could be read.
fn read_pages(memory: &File, octets: &mut [u8], from: u64) -> bool {
    let pages = octets.chunks_mut(PAGE).zip((from..).step_by(PAGE));
    pages
        .map(|(page, at)| memory.read_exact_at(page, at).is_ok())
        .fold(false, |any, this| any | this)
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap();
        if let Some((from, to)) = first.split_once('-') {
            let address = |text| u64::from_str_radix(text, 16).unwrap();
            let rights = words.next().unwrap();
            mappings.push(Mapping {
                from: address(from),
                to: address(to),
                writable: rights.contains('w'),
                name: words.skip(3).collect::<Vec<_>>().join(" "),
                kilobytes: 0,
            });
        } else if matches!(first, "Rss:" | "Swap:") {
            mappings.last_mut().unwrap().kilobytes += words.next().unwrap().parse::<u64>().unwrap();
        }
    }
    mappings
}

/// Whether any thread of a process computes.
pub(crate) fn any_runs(pid: u32) -> bool {
    states(pid).any(|state| state == 'R')
}

fn all_stopped(pid: u32) -> bool {
    states(pid).all(|state| state == 'T')
}

fn states(pid: u32) -> impl Iterator<Item = char> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        stat.rsplit(')').next()?.trim_start().chars().next()
    })
}

pub(crate) fn wait_for(holds: impl Fn() -> bool) {
    while !holds() {
        thread::yield_now();
    }
}
