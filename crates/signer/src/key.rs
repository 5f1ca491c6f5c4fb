//! The sealing key: read straight into secret memory, before the fences are up.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use taskmint_authority::SealingKey;
use taskmint_config::secret;
use taskmint_id::TrustDomain;
use taskmint_model::{Entropy as _, SystemEntropy};
use taskmint_secret::{SecretBox, SecretBuffer};

use crate::args::{Args, MakeKey};

/// Where the sealing key comes from. A TPM or a KMS would be another one.
///
/// It is asked once, before the fences are up: behind them no file and no socket can be opened. What
/// it gives is in secret memory; what it needed on its way there is for it to wipe.
pub(crate) trait SealingKeySource {
    /// The key.
    ///
    /// # Errors
    /// Says what is missing, and what to do.
    fn sealing_key(&self) -> anyhow::Result<SealingKey>;
}

/// The source that was configured; none for keys in memory alone.
pub(crate) fn source(args: &Args) -> Option<impl SealingKeySource> {
    let path = args.sealing_key.as_deref()?;
    Some(KeyFile { path, args })
}

/// A file, with a passphrase in another one if it is sealed itself.
struct KeyFile<'a> {
    path: &'a Path,
    args: &'a Args,
}

impl SealingKeySource for KeyFile<'_> {
    /// A file that is there is never written.
    fn sealing_key(&self) -> anyhow::Result<SealingKey> {
        let Self { path, args } = *self;
        make_missing(path, args)?;
        let passphrase = args.passphrase.as_deref().map(read).transpose()?;
        open(path, &args.trust_domain, passphrase.as_ref())
            .with_context(|| format!("the sealing key `{}` can't be used", path.display()))
    }
}

fn make_missing(path: &Path, args: &Args) -> anyhow::Result<()> {
    // A link that leads nowhere counts as there.
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    if args.make_missing_key && fs::symlink_metadata(path).as_ref().is_err_and(missing) {
        plain(path)?;
        tracing::warn!(
            path = %path.display(),
            "made a sealing key beside the data that it seals: good for development"
        );
    }
    Ok(())
}

fn open(
    path: &Path,
    trust_domain: &TrustDomain,
    passphrase: Option<&SecretBuffer>,
) -> anyhow::Result<SealingKey> {
    let content = read(path)?;
    let passphrase = passphrase.map(|passphrase| passphrase.expose().trim_ascii_end());
    Ok(SealingKey::open_file(
        content.expose(),
        trust_domain,
        passphrase,
    )?)
}

fn read(path: &Path) -> anyhow::Result<SecretBuffer> {
    let (file, _) = secret::open(path)?;
    SecretBuffer::read_from(&file, secret::MAX_SECRET)
        .with_context(|| format!("cannot read `{}`", path.display()))
}

/// Makes the file that was asked for.
///
/// # Errors
/// When it is there already, or can't be written.
pub(crate) fn make_key(args: &MakeKey) -> anyhow::Result<()> {
    let path = &args.out;
    match &args.passphrase {
        Some(passphrase) => {
            let passphrase = read(passphrase)?;
            let passphrase = passphrase.expose().trim_ascii_end();
            let key = SealingKey::generate(&SystemEntropy);
            let sealed = key.seal_file(&args.trust_domain, passphrase, &SystemEntropy)?;
            write_new(path, &sealed)
        }
        None => plain(path),
    }
}

/// A new key as it is.
fn plain(path: &Path) -> anyhow::Result<()> {
    let key = SecretBox::<[u8; 32]>::filled(|key| SystemEntropy.fill(key));
    write_new(path, key.expose())
}

/// A new file that only its owner may read: whole or not there, and never in another's place.
fn write_new(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let cannot = || format!("the sealing key `{}` can't be made", path.display());
    ensure!(
        fs::symlink_metadata(path).is_err(),
        "`{}` is there already, and a key is never written over: name another file",
        path.display()
    );
    let new = beside(path);
    let written = write(&new, content).and_then(|()| fs::hard_link(&new, path));
    let removed = fs::remove_file(&new);
    written.with_context(cannot)?;
    removed.with_context(cannot)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new(".")));
    folder
        .and_then(|folder| folder.sync_all())
        .with_context(cannot)
}

fn write(new: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(new)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A name that nobody else writes to.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}
