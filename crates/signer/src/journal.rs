//! The journal: written, never read (P24).

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use parking_lot::Mutex;
use rustix::fs::{FileType, FlockOperation, OFlags, fcntl_getfl, flock, fstat};
use taskmint_authority::Core;
use taskmint_mint::journal::{ENTRY_LEN, Entry};
use taskmint_model::Clock;

/// How long one that was killed may take to let go of the journal.
const HANDOVER: Duration = Duration::from_secs(10);

/// Where every signature is counted before it leaves.
pub(crate) struct Journal(Mutex<State>);

struct State {
    file: File,
    /// A write failed. What another thread signed may have been part of it, so nothing leaves any more.
    broken: bool,
}

impl Journal {
    /// Takes a descriptor that appends to a file. `/dev/null` is taken too, and counts nothing.
    ///
    /// # Errors
    /// When it could be written anywhere but at its end, or be read, or another signer writes it.
    pub(crate) fn inherited(descriptor: impl AsFd) -> anyhow::Result<Self> {
        let stat = fstat(&descriptor).context("standard output")?;
        let own = descriptor.as_fd().try_clone_to_owned();
        let mut file = File::from(own.context("standard output")?);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let flags = fcntl_getfl(&file).context("standard output")?;
                ensure!(
                    flags.contains(OFlags::APPEND) && flags & OFlags::RWMODE == OFlags::WRONLY,
                    "standard output must be opened for appending, and not for reading: it is the journal"
                );
                keep_others_out(&file)?;
                end_torn_entry(&mut file).context("the end of the journal can't be mended")?;
            }
            FileType::CharacterDevice => {
                tracing::warn!("there is no journal: what is signed is not counted");
            }
            _ => bail!("standard output must be a file: it is the journal"),
        }
        Ok(Self(Mutex::new(State {
            file,
            broken: false,
        })))
    }

    /// Writes what was signed and is not written yet.
    ///
    /// # Errors
    /// When it can't be written; then nothing that was signed may leave.
    pub(crate) fn write(&self, core: &Core, clock: &dyn Clock) -> io::Result<()> {
        // Taken under the lock: another's links are written before that one's answer leaves.
        let mut state = self.0.lock();
        if state.broken {
            return Err(io::Error::other("it could not be written before"));
        }
        let links = core.take_links();
        if links.is_empty() {
            return Ok(());
        }
        let at = clock.now();
        let mut entries = Vec::with_capacity(links.len() * ENTRY_LEN);
        for link in links {
            entries.extend_from_slice(&Entry { link, at }.encode());
        }
        let written = state.file.write_all(&entries);
        state.broken = written.is_err();
        written
    }
}

/// Two that write one journal could tear each other's entries.
fn keep_others_out(file: &File) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if since.elapsed() < HANDOVER => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!("another signer writes this journal: stop it, or give each its own")
            }
            Err(error) => return Err(error).context("the journal can't be locked"),
        }
    }
}

/// Fills up what a kill or a full disk left of an entry, so that all that follow begin where they
/// should. What is filled up ends in no zero, so it is no entry.
fn end_torn_entry(file: &mut File) -> anyhow::Result<()> {
    let length = usize::try_from(file.metadata()?.len())?;
    let torn = length % ENTRY_LEN;
    if torn != 0 {
        file.write_all(&vec![0xff; ENTRY_LEN - torn])?;
        tracing::warn!("the last entry of the journal was torn; what it was for never left");
    }
    Ok(())
}
