//! The sealing key of authority keys: from the service manager's credentials, or a 0600 file.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taskmint_authority::{Core, InProcess, Policy, SealingKey, SealingKeyError};
use taskmint_config::secret::{self, SecretError};
use taskmint_config::{KeyKind, Keys};
use taskmint_model::{Clock, Entropy};
use zeroize::Zeroizing;

/// The name in the state folder.
const FILE: &str = "sealing-key";

/// Why the sealing key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] SecretError),
    /// It can't be made.
    #[error("the sealing key `{path}` can't be made")]
    Make {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no key.
    #[error("the sealing key `{path}` is no key")]
    Content {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: SealingKeyError,
    },
}

/// The authority, with its keys sealed or in memory alone.
pub(crate) fn authority(
    keys: &Keys,
    data_dir: &Path,
    policy: Policy,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<InProcess, KeyError> {
    match keys.kind {
        KeyKind::Memory => Ok(InProcess::in_memory(policy, clock, entropy)),
        KeyKind::Sealed => {
            let key = sealing_key(keys.sealing_key_file.as_deref(), data_dir, &*entropy)?;
            Ok(InProcess::new(Arc::new(Core::new(
                policy,
                Some(key),
                clock,
                entropy,
            ))))
        }
    }
}

/// Reads the sealing key that is configured. Where that is the one in the state folder, makes it
/// at the first start.
fn sealing_key(
    configured: Option<&Path>,
    data_dir: &Path,
    entropy: &dyn Entropy,
) -> Result<SealingKey, KeyError> {
    let own = data_dir.join(FILE);
    let path = configured.map_or_else(|| own.clone(), Path::to_owned);
    if path == own && !path.exists() {
        make(&path, entropy).map_err(|source| KeyError::Make {
            path: path.clone(),
            source,
        })?;
        tracing::warn!(
            path = %path.display(),
            "made a sealing key beside the data that it seals; better give it as a credential"
        );
    }
    let content = secret::read(&path)?;
    SealingKey::parse(&content).map_err(|source| KeyError::Content { path, source })
}

fn make(path: &Path, entropy: &dyn Entropy) -> std::io::Result<()> {
    let octets = Zeroizing::new(entropy.array::<32>());
    let new = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&*octets)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}
