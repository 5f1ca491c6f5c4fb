//! The node's own key and SVID, in memory and on disk.
//!
//! Two files below the data folder, both of mode 0600 and replaced atomically: `node.key` (PKCS#8)
//! is made before the first attestation, so that a lost answer can be asked for again over the same
//! key; `node.json` holds the SVID in use, written before that is used (P11).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use taskmint_id::{Bundle, SpiffeId, TrustDomain};
use taskmint_model::Timestamp;
use zeroize::Zeroizing;

use crate::key::{KeyError, PrivateKey};

const FORMAT: u32 = 1;

/// What this node is, while its SVID counts. Clones share the key.
#[derive(Clone)]
pub struct NodeIdentity {
    /// `spiffe://<td>/taskmint/node/<attestor>/<id>`.
    pub id: SpiffeId,
    /// DER, leaf first.
    pub certificate: Vec<u8>,
    /// When it was obtained.
    pub obtained_at: Timestamp,
    /// Last instant at which it counts.
    pub expires_at: Timestamp,
    /// `host:port` of the server's node API.
    pub server: String,
    /// What the server is known by.
    pub bundle: Bundle,
    key: Arc<PrivateKey>,
}

/// What the state folder holds. One agent at a time works with it.
#[derive(Debug)]
pub(crate) struct StateDir {
    dir: PathBuf,
}

/// Why the node's state can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system said no.
    #[error("can't {action} `{path}`", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Others may read the key.
    #[error(
        "`{path}` has mode {mode:o}: others may read it; `chmod 600` it, or delete it and attest \
         the node anew",
        path = .path.display()
    )]
    Readable {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// What the file holds is not what an agent wrote.
    #[error("`{path}` is damaged ({why}); delete it and attest the node anew", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No key could be made.
    #[error("no key could be made")]
    Key,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    trust_domain: String,
    node_id: String,
    certificate: String,
    obtained_at_ms: u64,
    expires_at_ms: u64,
    server: String,
    bundle: String,
}

impl NodeIdentity {
    /// An identity over the node's key.
    pub(crate) fn new(
        key: Arc<PrivateKey>,
        svid: Svid,
        server: String,
        obtained_at: Timestamp,
    ) -> Self {
        let Svid {
            id,
            certificate,
            expires_at,
            bundle,
        } = svid;
        Self {
            id,
            certificate,
            obtained_at,
            expires_at,
            server,
            bundle,
            key,
        }
    }

    /// The node's trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.id.trust_domain()
    }

    /// Its private key, PKCS#8 DER: for TLS to the server, and for nothing else.
    pub fn private_key(&self) -> &[u8] {
        &self.key.pkcs8
    }

    /// The same under another bundle.
    pub(crate) fn with_bundle(&self, bundle: Bundle) -> Self {
        Self {
            bundle,
            ..self.clone()
        }
    }

    pub(crate) fn key(&self) -> &Arc<PrivateKey> {
        &self.key
    }

    /// When it is to be renewed: at half its life, to within a tenth of it, by `chance` (0 to 1),
    /// so that nodes that joined together don't come back together.
    pub(crate) fn renew_at(&self, chance: f64) -> Timestamp {
        let life = self.expires_at.since(self.obtained_at);
        self.obtained_at + half_with_jitter(life, chance)
    }
}

/// A node's SVID as the server gives it.
pub(crate) struct Svid {
    pub(crate) id: SpiffeId,
    pub(crate) certificate: Vec<u8>,
    pub(crate) expires_at: Timestamp,
    pub(crate) bundle: Bundle,
}

/// Half of a life, a tenth of that earlier or later.
pub(crate) fn half_with_jitter(life: Duration, chance: f64) -> Duration {
    life.mul_f64(0.45 + 0.1 * chance.clamp(0.0, 1.0))
}

impl StateDir {
    /// The folder, made if it is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
        made.map_err(failed("create", dir))?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The node's key, made and written if there is none.
    pub(crate) fn key(&self) -> Result<Arc<PrivateKey>, StateError> {
        if let Some(key) = self.read_key()? {
            return Ok(Arc::new(key));
        }
        let key = PrivateKey::generate().map_err(|_| StateError::Key)?;
        self.replace("node.key", &key.pkcs8)?;
        Ok(Arc::new(key))
    }

    /// The SVID that was in use; none before the first attestation.
    pub(crate) fn identity(&self) -> Result<Option<NodeIdentity>, StateError> {
        let path = self.dir.join("node.json");
        let Some(text) = read_private(&path)? else {
            return Ok(None);
        };
        let damaged = |why: String| StateError::Damaged {
            path: path.clone(),
            why,
        };
        let Some(key) = self.read_key()? else {
            return Err(damaged("there is no node.key beside it".to_owned()));
        };
        let saved: Saved = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if saved.format != FORMAT {
            return Err(damaged(format!("format {} is unknown", saved.format)));
        }
        let trust_domain =
            TrustDomain::parse(&saved.trust_domain).map_err(|e| damaged(e.to_string()))?;
        let certificate = STANDARD.decode(&saved.certificate);
        Ok(Some(NodeIdentity {
            id: saved.node_id.parse().map_err(|e| damaged(format!("{e}")))?,
            certificate: certificate.map_err(|e| damaged(e.to_string()))?,
            obtained_at: Timestamp::from_millis(saved.obtained_at_ms),
            expires_at: Timestamp::from_millis(saved.expires_at_ms),
            server: saved.server,
            bundle: Bundle::parse(trust_domain, saved.bundle.as_bytes())
                .map_err(|e| damaged(e.to_string()))?,
            key: Arc::new(key),
        }))
    }

    /// Writes the SVID that is used from now on.
    pub(crate) fn save(&self, identity: &NodeIdentity) -> Result<(), StateError> {
        let saved = Saved {
            format: FORMAT,
            trust_domain: identity.trust_domain().to_string(),
            node_id: identity.id.to_string(),
            certificate: STANDARD.encode(&identity.certificate),
            obtained_at_ms: identity.obtained_at.millis(),
            expires_at_ms: identity.expires_at.millis(),
            server: identity.server.clone(),
            bundle: identity.bundle.to_json(),
        };
        let path = self.dir.join("node.json");
        let text = serde_json::to_vec_pretty(&saved).map_err(|e| StateError::Damaged {
            path,
            why: e.to_string(),
        })?;
        self.replace("node.json", &text)
    }

    fn read_key(&self) -> Result<Option<PrivateKey>, StateError> {
        let path = self.dir.join("node.key");
        let Some(bytes) = read_private(&path)? else {
            return Ok(None);
        };
        let damaged = |e: KeyError| StateError::Damaged {
            path,
            why: e.to_string(),
        };
        PrivateKey::from_pkcs8(bytes).map(Some).map_err(damaged)
    }

    /// After a crash at any instant there is the old content or the new one.
    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let (path, new) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let written = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            // Left by a crash, it may have been made under another mode.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        written().map_err(failed("write", &path))
    }
}

fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let content = match fs::read(path) {
        Ok(content) => Zeroizing::new(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let mode = fs::metadata(path)
        .map_err(failed("read", path))?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(StateError::Readable {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(Some(content))
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        action,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(state: &StateDir) -> NodeIdentity {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let svid = Svid {
            id: SpiffeId::node(&trust_domain, "join_token", "n1").unwrap(),
            certificate: vec![1, 2, 3],
            expires_at: Timestamp::from_secs(2_000),
            bundle: Bundle::new(trust_domain).with_sequence(7),
        };
        let server = "127.0.0.1:8441".to_owned();
        NodeIdentity::new(
            state.key().unwrap(),
            svid,
            server,
            Timestamp::from_secs(1_000),
        )
    }

    #[test]
    fn what_was_saved_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("a/b")).unwrap();
        assert!(state.identity().unwrap().is_none());
        let saved = identity(&state);
        state.save(&saved).unwrap();
        let read = state.identity().unwrap().unwrap();
        assert_eq!(
            (&read.id, &read.certificate),
            (&saved.id, &saved.certificate)
        );
        assert_eq!(read.private_key(), saved.private_key());
        assert_eq!(read.bundle.sequence(), 7);
        assert_eq!(state.key().unwrap().spki, saved.key().spki);
    }

    #[test]
    fn state_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.save(&identity(&state)).unwrap();
        for name in ["node.key", "node.json"] {
            let path = dir.path().join(name);
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert!(matches!(
                state.identity(),
                Err(StateError::Readable { mode: 0o640, .. })
            ));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    #[test]
    fn damaged_state_says_which_file() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.save(&identity(&state)).unwrap();
        fs::write(dir.path().join("node.json"), b"{}").unwrap();
        let error = state.identity().err().unwrap().to_string();
        assert!(
            error.contains("node.json") && error.contains("damaged"),
            "{error}"
        );
    }

    #[test]
    fn renewal_is_due_around_half_the_life() {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(&StateDir::open(dir.path()).unwrap());
        assert_eq!(identity.renew_at(0.0), Timestamp::from_secs(1_450));
        assert_eq!(identity.renew_at(1.0), Timestamp::from_secs(1_550));
    }
}
