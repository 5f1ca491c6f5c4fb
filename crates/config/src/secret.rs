//! Reads the files that configuration names where a secret is wanted.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Longest secret that is read, in bytes.
pub const MAX_SECRET: usize = 64 << 10;

/// Why a secret was not read. None of these shows any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read.
    #[error("cannot read the secret in `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is a folder, a device or the like.
    #[error("`{}` is no regular file", .path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// Others may read or write it.
    #[error(
        "`{}` is open to others (mode {mode:04o}): run `chmod 600 {}`",
        .path.display(), .path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It belongs to someone else, who could put another in its place.
    #[error("`{}` belongs to uid {owner}, who is neither this process's user nor root", .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// It is longer than any secret.
    #[error("`{}` is longer than {MAX_SECRET} bytes", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Nothing is in it.
    #[error("`{}` is empty", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a secret from a file that only its owner may read (mode 0600 or less), or that the
/// service manager put into its credentials folder. The bytes are wiped when dropped.
///
/// # Errors
///
/// [`SecretError`]: unreadable, no regular file, open to others, someone else's, empty, too long.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let (file, length) = open(path)?;
    // More than that, and it grew while it was read.
    read_all(file, length, path)
}

/// Reads a secret from standard input, to its end. The bytes are wiped when dropped.
///
/// # Errors
///
/// [`SecretError`]: unreadable, empty, too long.
pub fn read_standard_input() -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let name = Path::new("standard input");
    // Not by `io::stdin`, whose buffer nobody wipes.
    let descriptor = io::stdin().as_fd().try_clone_to_owned();
    let file = descriptor
        .map(File::from)
        .map_err(|source| SecretError::Read {
            path: name.to_owned(),
            source,
        })?;
    read_all(file, MAX_SECRET, name)
}

/// Reads to the end of what is called `path` in errors, `most` octets and no more.
fn read_all(from: impl Read, most: usize, path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let path = path.to_owned();
    // The right size from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    let mut limited = from.take(u64::try_from(most + 1).unwrap_or(u64::MAX));
    match limited.read_to_end(&mut bytes) {
        Err(source) => Err(SecretError::Read { path, source }),
        Ok(0) => Err(SecretError::Empty { path }),
        Ok(read) if read > most => Err(SecretError::TooLong { path }),
        Ok(_) => Ok(bytes),
    }
}

/// Opens such a file without reading it, for whoever reads it into memory of its own. Says how
/// long it is, in octets.
///
/// # Errors
///
/// [`SecretError`]: unreadable, no regular file, open to others, someone else's, too long.
pub fn open(path: &Path) -> Result<(File, usize), SecretError> {
    // Non-blocking, or a pipe in its place would hold the start up.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|source| SecretError::Read {
            path: path.to_owned(),
            source,
        })?;
    let length = judge(path, &file)?;
    Ok((file, length))
}

/// Looks at the file that was opened, not at the path, and returns its length.
fn judge(path: &Path, file: &File) -> Result<usize, SecretError> {
    let path = path.to_owned();
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(source) => return Err(SecretError::Read { path, source }),
    };
    if !metadata.is_file() {
        return Err(SecretError::NoFile { path });
    }
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(SecretError::Owner { path, owner });
    }
    // systemd opens a credential to the service's user by an access list, whose mask shows as
    // permissions of the group; the group itself is root's.
    let is_credential = mode & 0o037 == 0 && metadata.gid() == 0 && owner == 0;
    if mode & 0o077 != 0 && !is_credential {
        return Err(SecretError::Open { path, mode });
    }
    match usize::try_from(metadata.len()) {
        Ok(length) if length <= MAX_SECRET => Ok(length),
        _ => Err(SecretError::TooLong { path }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
        (folder, path)
    }

    #[test]
    fn a_stream_is_read_to_its_end_and_no_further_than_any_secret_goes() {
        let name = Path::new("standard input");
        let read = |from: &mut dyn Read| read_all(from, MAX_SECRET, name);
        // In pieces, as a pipe gives them.
        let secret = read(&mut b"first ".chain(&b"second"[..])).expect("read");
        assert_eq!(**secret, *b"first second");
        let longest = read(&mut io::repeat(b'x').take(MAX_SECRET as u64)).expect("read");
        assert_eq!(longest.len(), MAX_SECRET);
        // One octet too many, and one that never ends.
        let mut longer = io::repeat(b'x').take(MAX_SECRET as u64 + 1);
        for from in [&mut longer as &mut dyn Read, &mut io::repeat(b'x')] {
            assert!(matches!(read(from), Err(SecretError::TooLong { .. })));
        }
        let empty = read(&mut io::empty()).expect_err("nothing");
        assert_eq!(empty.to_string(), "`standard input` is empty");
    }

    #[test]
    fn a_file_of_ones_own_is_read() {
        for mode in [0o600, 0o400] {
            let (_folder, path) = file(b"sealing key", mode);
            assert_eq!(
                read(&path).expect("it is ours alone").as_slice(),
                b"sealing key"
            );
        }
    }

    #[test]
    fn a_file_that_others_may_read_or_write_is_refused() {
        for mode in [0o604, 0o620, 0o660, 0o602, 0o644] {
            let (_folder, path) = file(b"sealing key", mode);
            let error = read(&path).expect_err("it is open");
            assert!(
                matches!(error, SecretError::Open { mode: found, .. } if found == mode),
                "{error}"
            );
            assert!(!error.to_string().contains("sealing key"));
        }
    }

    #[test]
    fn empty_long_and_special_files_are_refused() {
        let (_folder, path) = file(b"", 0o600);
        assert!(matches!(read(&path), Err(SecretError::Empty { .. })));
        let (folder, path) = file(&vec![7; MAX_SECRET + 1], 0o600);
        assert!(matches!(read(&path), Err(SecretError::TooLong { .. })));
        assert!(matches!(
            read(folder.path()),
            Err(SecretError::NoFile { .. })
        ));
        let absent = folder.path().join("absent");
        assert!(matches!(read(&absent), Err(SecretError::Read { .. })));
    }

    #[test]
    fn the_longest_secret_is_still_read() {
        let (_folder, path) = file(&vec![7; MAX_SECRET], 0o600);
        assert_eq!(read(&path).expect("just short enough").len(), MAX_SECRET);
    }
}
