//! The sealing key: read straight into secret memory, before the fences are up.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use taskmint_authority::SealingKey;
use taskmint_config::secret;
use taskmint_id::TrustDomain;
use taskmint_secret::SecretBuffer;

use crate::args::Args;

/// The sealing key that was configured; none for keys in memory alone.
///
/// # Errors
/// Says which file, and what to do. A file that is there is never written.
pub(crate) fn sealing_key(args: &Args) -> anyhow::Result<Option<SealingKey>> {
    let Some(path) = &args.sealing_key else {
        return Ok(None);
    };
    if args.make_missing_key && !path.exists() {
        make(path)
            .with_context(|| format!("the sealing key `{}` can't be made", path.display()))?;
        tracing::warn!(
            path = %path.display(),
            "made a sealing key beside the data that it seals: good for development"
        );
    }
    let passphrase = args.passphrase.as_deref().map(read).transpose()?;
    let key = open(path, &args.trust_domain, passphrase.as_ref())
        .with_context(|| format!("the sealing key `{}` can't be used", path.display()))?;
    Ok(Some(key))
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

/// A new key, whole or not there.
fn make(path: &Path) -> std::io::Result<()> {
    let random = File::open("/dev/urandom")?;
    let key = SecretBuffer::read_from(&random, 32)?;
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(key.expose())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
