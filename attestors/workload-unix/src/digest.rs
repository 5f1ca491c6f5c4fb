//! SHA-256 of executables: bounded, and remembered by what the file is.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::fstatfs;
use sha2::{Digest, Sha256};
use taskmint_model::{Clock, Timestamp};
use taskmint_peer::{FileIdentity, OpenExecutable, ProcessFacts};

/// Digests that are remembered.
const REMEMBERED: usize = 1024;

/// A change this soon before or after a file was read may leave its change time as it was, for
/// clocks of file systems tick slowly. Coarser than any: FAT's two seconds.
const TICK: Duration = Duration::from_secs(2);

/// `statfs` type of file systems in user space.
const FUSE: u64 = 0x6573_5546;

/// Computes digests and remembers the latest used.
pub(crate) struct Digests {
    clock: Arc<dyn Clock>,
    remembered: Mutex<Remembered>,
}

/// Why there is no digest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DigestError {
    #[error("it has {size} bytes, and max_sha256_bytes is {limit}")]
    TooLarge { size: u64, limit: u64 },
    #[error("a file system in user space may show each reader another content")]
    Untrusted,
    #[error("it changed while it was read")]
    Changed,
    #[error("can't read it: {0}")]
    Read(#[from] io::Error),
}

/// The least recently used goes first.
#[derive(Default)]
struct Remembered {
    digests: HashMap<FileIdentity, ([u8; 32], u64)>,
    used: BTreeMap<u64, FileIdentity>,
    uses: u64,
}

impl Digests {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            remembered: Mutex::default(),
        }
    }

    /// Whether a later change of the file that a process runs would show in its facts.
    pub(crate) fn is_settled(&self, facts: &ProcessFacts) -> bool {
        let now = self.clock.now();
        let executable = facts.executable.as_ref();
        executable.is_ok_and(|executable| is_settled(&executable.file, now))
    }

    /// The digest of an open executable of at most `limit` bytes. Blocks while it reads.
    pub(crate) fn of(&self, open: &OpenExecutable, limit: u64) -> Result<[u8; 32], DigestError> {
        let size = open.facts().file.size;
        if size > limit {
            return Err(DigestError::TooLarge { size, limit });
        }
        if let Some(digest) = self.remembered.lock().get(&open.facts().file) {
            return Ok(digest);
        }
        self.read(open.reader()?)
    }

    fn read(&self, file: File) -> Result<[u8; 32], DigestError> {
        // User space's own file systems are the only ones that a user can put in place.
        if u64::try_from(fstatfs(&file).map_err(io::Error::from)?.f_type) == Ok(FUSE) {
            return Err(DigestError::Untrusted);
        }
        let started = self.clock.now();
        let before = FileIdentity::of(&file)?;
        let digest = digest(&file, before.size)?;
        if FileIdentity::of(&file)? != before {
            return Err(DigestError::Changed);
        }
        if is_settled(&before, started) {
            self.remembered.lock().put(before, digest);
        }
        Ok(digest)
    }
}

impl Remembered {
    fn get(&mut self, file: &FileIdentity) -> Option<[u8; 32]> {
        let (digest, last) = self.digests.get_mut(file)?;
        self.uses += 1;
        self.used.remove(&std::mem::replace(last, self.uses));
        self.used.insert(self.uses, *file);
        Some(*digest)
    }

    fn put(&mut self, file: FileIdentity, digest: [u8; 32]) {
        self.uses += 1;
        if let Some((_, last)) = self.digests.insert(file, (digest, self.uses)) {
            self.used.remove(&last);
        }
        self.used.insert(self.uses, file);
        if self.digests.len() > REMEMBERED
            && let Some((_, oldest)) = self.used.pop_first()
        {
            self.digests.remove(&oldest);
        }
    }
}

/// The digest of exactly `size` bytes.
fn digest(mut file: &File, size: u64) -> Result<[u8; 32], DigestError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut seen = 0_u64;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        seen += read as u64;
        // A file that grows as it is read would never end.
        if seen > size {
            return Err(DigestError::Changed);
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
    if seen == size {
        Ok(hasher.finalize().into())
    } else {
        Err(DigestError::Changed)
    }
}

/// Whether any later change of the file would show in its change time.
fn is_settled(file: &FileIdentity, now: Timestamp) -> bool {
    let Ok(seconds) = u64::try_from(file.changed.0) else {
        return true;
    };
    let changed = Timestamp::from_secs(seconds) + Duration::from_nanos(file.changed.1.into());
    // `since` is zero for a file from the future, whose clock is not ours.
    now.since(changed) > TICK
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use taskmint_model::SystemClock;

    struct At(Timestamp);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            self.0
        }
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file.reopen().unwrap()
    }

    fn identity(inode: u64) -> FileIdentity {
        FileIdentity {
            device: 1,
            inode,
            changed: (0, 0),
            size: 0,
        }
    }

    #[test]
    fn only_a_file_that_has_settled_is_remembered() {
        let now = SystemClock.now();
        for (clock, remembered) in [
            (now, 0),
            (now - Duration::from_secs(60), 0),
            (now + Duration::from_secs(60), 1),
        ] {
            let digests = Digests::new(Arc::new(At(clock)));
            let found = digests.read(file_of(b"abc")).unwrap();
            assert_eq!(found[..4], [0xba, 0x78, 0x16, 0xbf]);
            assert_eq!(
                digests.remembered.lock().digests.len(),
                remembered,
                "{clock}"
            );
        }
    }

    #[test]
    fn a_file_of_another_size_than_expected_has_changed() {
        for size in [2, 4] {
            let error = digest(&file_of(b"abc"), size).unwrap_err();
            assert!(matches!(error, DigestError::Changed), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_used_last_is_remembered(inodes in prop::collection::vec(0_u64..1500, 0..4000)) {
            let mut remembered = Remembered::default();
            let mut recent: Vec<u64> = Vec::new();
            for inode in inodes {
                if remembered.get(&identity(inode)).is_none() {
                    remembered.put(identity(inode), [inode as u8; 32]);
                }
                recent.retain(|other| *other != inode);
                recent.push(inode);
            }
            let kept = recent.len().min(REMEMBERED);
            prop_assert_eq!(remembered.digests.len(), kept);
            prop_assert_eq!(remembered.used.len(), kept);
            for inode in &recent[recent.len() - kept..] {
                prop_assert_eq!(remembered.get(&identity(*inode)), Some([*inode as u8; 32]));
            }
        }
    }
}
