//! The journal: written, never read (P24).

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;

use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use taskmint_authority::Core;
use taskmint_mint::journal::{ENTRY_LEN, Entry};
use taskmint_model::Clock;

/// Where every signature is counted before it leaves.
pub(crate) struct Journal(Mutex<File>);

impl Journal {
    /// Takes a descriptor that appends to a file. `/dev/null` is taken too, and counts nothing.
    ///
    /// # Errors
    /// When it could be written anywhere but at its end, or be read.
    pub(crate) fn inherited(descriptor: impl AsFd) -> anyhow::Result<Self> {
        let stat = fstat(&descriptor).context("standard output")?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let flags = fcntl_getfl(&descriptor).context("standard output")?;
                ensure!(
                    flags.contains(OFlags::APPEND) && flags & OFlags::RWMODE == OFlags::WRONLY,
                    "standard output must be opened for appending, and not for reading: it is the journal"
                );
            }
            FileType::CharacterDevice => {
                tracing::warn!("there is no journal: what is signed is not counted");
            }
            _ => anyhow::bail!("standard output must be a file: it is the journal"),
        }
        let own = descriptor.as_fd().try_clone_to_owned();
        Ok(Self(Mutex::new(File::from(
            own.context("standard output")?,
        ))))
    }

    /// Writes what was signed and is not written yet.
    ///
    /// # Errors
    /// When it can't be written; then nothing that was signed may leave.
    pub(crate) fn write(&self, core: &Core, clock: &dyn Clock) -> std::io::Result<()> {
        // Taken under the lock: another's links are written before that one's answer leaves.
        let mut file = self.0.lock();
        let links = core.take_links();
        if links.is_empty() {
            return Ok(());
        }
        let at = clock.now();
        let mut entries = Vec::with_capacity(links.len() * ENTRY_LEN);
        for link in links {
            entries.extend_from_slice(&Entry { link, at }.encode());
        }
        file.write_all(&entries)
    }
}
