//! Files that change all at once: each is a link through `.now`, which a rename points elsewhere.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, chown};
use taskmint_client::{X509Context, X509Svid};
use zeroize::Zeroizing;

use crate::context::random;
use crate::svid::pem::{self, pem, remove_if_there};

const NOW: &str = ".now";
const VERSION: &str = ".v-";
const NAMES: [&str; 4] = ["key.pem", "svid.pem", "bundle.pem", "crl.pem"];

/// Who owns the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    user: Option<Uid>,
    group: Option<Gid>,
}

/// Who may read them.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) key_mode: u32,
    pub(super) owner: Option<Owner>,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    access: Access,
}

/// `user`, `user:group` or `:group`, by name or number.
pub(super) fn owner(text: &str) -> Result<Owner, String> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let by_number = |text: &str| text.parse::<u32>().ok();
    let user = match (user, by_number(user)) {
        ("", _) => None,
        (_, Some(number)) => Some(Uid::from_raw(number)),
        (name, None) => match User::from_name(name) {
            Ok(Some(found)) => Some(found.uid),
            Ok(None) => return Err(format!("there is no user `{name}`")),
            Err(error) => return Err(error.to_string()),
        },
    };
    let group = match (group, by_number(group)) {
        ("", _) => None,
        (_, Some(number)) => Some(Gid::from_raw(number)),
        (name, None) => match Group::from_name(name) {
            Ok(Some(found)) => Some(found.gid),
            Ok(None) => return Err(format!("there is no group `{name}`")),
            Err(error) => return Err(error.to_string()),
        },
    };
    if user.is_none() && group.is_none() {
        return Err("neither a user nor a group".to_owned());
    }
    Ok(Owner { user, group })
}

/// A mode in octal, of files only: no execution, no special bits.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).map_err(|_| "not an octal number".to_owned())?;
    if mode & !0o666 != 0 || mode & 0o400 == 0 {
        return Err(
            "must be readable for its owner, and neither executable nor special".to_owned(),
        );
    }
    Ok(mode)
}

impl Files {
    pub(super) fn open(folder: &Path, access: Access) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
        for name in NAMES {
            match fs::symlink_metadata(folder.join(name)) {
                Ok(found) if !found.is_symlink() => {
                    let message = format!("`{name}` is there already, and is not a helper's");
                    return Err(io::Error::new(ErrorKind::AlreadyExists, message));
                }
                _ => {}
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            access,
        })
    }

    /// Writes everything anew and switches to it; false if it is as it was.
    pub(super) fn write(&self, svid: &X509Svid, fetched: &X509Context) -> io::Result<bool> {
        let contents = contents(svid, fetched)?;
        if contents.iter().all(|(name, text)| self.is_as(name, text)) {
            return Ok(false);
        }
        let version = format!("{VERSION}{}", hex::encode(random::<8>()));
        let into = self.folder.join(&version);
        DirBuilder::new().mode(0o755).create(&into)?;
        self.own(&into)?;
        for (name, text) in &contents {
            let mode = if *name == "key.pem" {
                self.access.key_mode
            } else {
                0o644
            };
            self.create(
                &into.join(name),
                text.as_ref().map_or("", |text| text.as_str()),
                mode,
            )?;
        }
        let new = self.folder.join(format!("{NOW}.new"));
        remove_if_there(&new)?;
        symlink(&version, &new)?;
        let before = fs::read_link(self.folder.join(NOW)).ok();
        fs::rename(&new, self.folder.join(NOW))?;
        for (name, text) in &contents {
            let link = self.folder.join(name);
            match (text, fs::symlink_metadata(&link)) {
                (Some(_), Err(_)) => symlink(Path::new(NOW).join(name), link)?,
                (None, Ok(_)) => fs::remove_file(link)?,
                _ => {}
            }
        }
        self.tidy(&[Some(OsString::from(version)), before.map(Into::into)]);
        Ok(true)
    }

    /// Removes everything that it wrote.
    pub(super) fn remove(&self) -> io::Result<()> {
        for name in NAMES.into_iter().chain([NOW]) {
            remove_if_there(&self.folder.join(name))?;
        }
        self.tidy(&[]);
        Ok(())
    }

    fn is_as(&self, name: &str, text: &Option<Zeroizing<String>>) -> bool {
        let there = fs::read(self.folder.join(name)).map(Zeroizing::new);
        match (text, there) {
            (Some(text), Ok(there)) => there.as_slice() == text.as_bytes(),
            (None, Err(error)) => error.kind() == ErrorKind::NotFound,
            _ => false,
        }
    }

    fn create(&self, path: &Path, text: &str, mode: u32) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut file = OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        self.own(path)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    }

    fn own(&self, path: &Path) -> io::Result<()> {
        match &self.access.owner {
            Some(owner) => chown(path, owner.user, owner.group).map_err(Into::into),
            None => Ok(()),
        }
    }

    /// Drops versions but those to keep. The last one is kept: who opened a file by its link a moment
    /// ago may open the next.
    fn tidy(&self, keep: &[Option<OsString>]) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_version = name.to_string_lossy().starts_with(VERSION);
            if is_version && !keep.contains(&Some(name)) {
                // Tried again at the next change.
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    }
}

type Contents = [(&'static str, Option<Zeroizing<String>>); 4];

fn contents(svid: &X509Svid, fetched: &X509Context) -> io::Result<Contents> {
    let crls: io::Result<String> = fetched
        .crls
        .iter()
        .map(|der| pem("X509 CRL", der))
        .collect();
    let text = |text: String| (!text.is_empty()).then(|| Zeroizing::new(text));
    Ok([
        ("key.pem", text(pem("PRIVATE KEY", &svid.key)?)),
        ("svid.pem", text(pem::chain(svid)?)),
        ("bundle.pem", text(pem::authorities(svid, fetched)?)),
        ("crl.pem", text(crls?)),
    ])
}

#[cfg(test)]
mod tests {
    use taskmint_id::{BundleSet, SpiffeId};

    use super::*;

    fn fetched(key: u8, crls: usize) -> X509Context {
        let svid = X509Svid {
            spiffe_id: SpiffeId::parse("spiffe://example.org/a").unwrap(),
            chain: vec![vec![key; 20].into()],
            key: Zeroizing::new(vec![key; 10]),
            hint: String::new(),
        };
        X509Context {
            svids: vec![svid],
            bundles: BundleSet::new(),
            crls: vec![vec![1, 2, 3]; crls],
        }
    }

    fn files(folder: &Path) -> Files {
        let access = Access {
            key_mode: 0o640,
            owner: None,
        };
        Files::open(folder, access).unwrap()
    }

    fn write(files: &Files, key: u8, crls: usize) -> bool {
        let fetched = fetched(key, crls);
        files.write(&fetched.svids[0], &fetched).unwrap()
    }

    #[test]
    fn everything_changes_at_once_and_only_if_something_did() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        assert!(write(&files, 1, 1));
        assert!(!write(&files, 1, 1), "nothing new");
        let key = folder.path().join("key.pem");
        let first = fs::read(&key).unwrap();
        assert_eq!(
            fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert!(folder.path().join("crl.pem").exists());
        assert!(!folder.path().join("bundle.pem").exists(), "there is none");

        assert!(write(&files, 2, 0));
        assert_ne!(fs::read(&key).unwrap(), first);
        assert!(
            !folder.path().join("crl.pem").exists(),
            "gone with the grant"
        );
        for key in 3..9 {
            assert!(write(&files, key, 1));
        }
        let versions = fs::read_dir(folder.path()).unwrap().flatten();
        let versions = versions.filter(|e| e.file_name().to_string_lossy().starts_with(VERSION));
        assert_eq!(versions.count(), 2, "this one and the last");
        files.remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_crash_left_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        symlink("nowhere", folder.path().join(".now.new")).unwrap();
        fs::create_dir(folder.path().join(".v-left")).unwrap();
        let files = files(folder.path());
        assert!(write(&files, 1, 0));
        assert!(!folder.path().join(".v-left").exists());
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("key.pem"), "precious").unwrap();
        let access = Access {
            key_mode: 0o600,
            owner: None,
        };
        let error = Files::open(folder.path(), access).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn modes_and_owners_are_read_strictly() {
        assert_eq!(mode("0640"), Ok(0o640));
        for bad in ["", "9", "0755", "4600", "0200", "0o600"] {
            assert!(mode(bad).is_err(), "`{bad}`");
        }
        assert_eq!(owner("0:0").unwrap().user, Some(Uid::from_raw(0)));
        assert_eq!(owner("root").unwrap().group, None);
        assert_eq!(owner(":0").unwrap().user, None);
        for bad in ["", ":", "no-such-user-here", "root:no-such-group-here"] {
            assert!(owner(bad).is_err(), "`{bad}`");
        }
    }
}
