//! Where `dev` keeps its state.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::context::random;

/// `sun_path` without its final zero, and the longest name of a socket below the folder.
const MAX_PATH: usize = 107 - "/tasks/00000000-0000-0000-0000-000000000000/revocation.sock".len();

/// The state folder; a fresh one is removed in the end.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    fresh: bool,
}

impl Folder {
    /// The folder that was named, or a new one below the temporary folder.
    pub(super) fn open(named: Option<&Path>) -> anyhow::Result<Self> {
        let (path, fresh) = match named {
            Some(path) => (std::path::absolute(path)?, false),
            None => {
                let name = format!("taskmint-dev-{}", hex::encode(random::<6>()));
                (std::path::absolute(std::env::temp_dir())?.join(name), true)
            }
        };
        let shown = path.display().to_string();
        anyhow::ensure!(
            path.as_os_str().len() <= MAX_PATH,
            "the path of `{shown}` is longer than {MAX_PATH} bytes, too long for sockets in it"
        );
        let mut builder = DirBuilder::new();
        let made = builder.mode(0o700).recursive(!fresh).create(&path);
        made.with_context(|| format!("cannot make `{shown}`"))?;
        // It holds keys, also where it was there before.
        fs::set_permissions(&path, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot close `{shown}`"))?;
        Ok(Self { path, fresh })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was made for this run alone.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The path of something in it, for a configuration.
    pub(super) fn utf8(&self, name: &str) -> anyhow::Result<String> {
        let path = self.path.join(name).into_os_string().into_string();
        path.map_err(|path| anyhow::anyhow!("`{}` is no UTF-8", path.to_string_lossy()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.fresh {
            // Best effort: it lies in the temporary folder.
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

/// Whole or not at all: whoever reads it may read at any time.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_folder_is_private_and_goes_in_the_end() {
        let folder = Folder::open(None).unwrap();
        let path = folder.path().to_owned();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_named_folder_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let folder = Folder::open(Some(&path)).unwrap();
        assert!(!folder.is_fresh());
        drop(folder);
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_is_too_long_for_sockets_is_refused_at_once() {
        let long = format!("/tmp/{}", "x".repeat(MAX_PATH));
        let error = Folder::open(Some(Path::new(&long)))
            .unwrap_err()
            .to_string();
        assert!(error.contains("too long for sockets"), "{error}");
    }
}
