//! The public certificate: read from files, and again when they change or on SIGHUP.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use taskmint_daemon::Reloads;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(30);

/// A certificate and its key in files.
#[derive(Debug)]
pub(super) struct Files {
    cert: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
}

/// Why a certificate can't be used. Keys are named by their file, never shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error("cannot read `{}`: {error}", .path.display())]
    Pem {
        path: PathBuf,
        error: rustls_pki_types::pem::Error,
    },
    #[error("`{}` has no certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("the key in `{}` can't be used: {error}", .path.display())]
    Key { path: PathBuf, error: rustls::Error },
}

impl Files {
    /// Reads both.
    pub(super) fn read(cert: &Path, key: &Path) -> Result<Arc<Self>, FilesError> {
        let current = load(cert, key)?;
        Ok(Arc::new(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            current: ArcSwap::from_pointee(current),
        }))
    }

    /// Takes what is in the files when they change. Runs until dropped.
    pub(super) async fn follow(&self, reloads: &mut Reloads) {
        let mut seen = self.changed_at();
        loop {
            tokio::select! {
                () = reloads.next() => {}
                () = tokio::time::sleep(LOOK) => {
                    let now = self.changed_at();
                    if now == seen {
                        continue;
                    }
                    seen = now;
                }
            }
            match load(&self.cert, &self.key) {
                Ok(new) => {
                    self.current.store(Arc::new(new));
                    tracing::info!("the public listener's certificate was read again");
                }
                Err(error) => tracing::error!(%error, "the old certificate is kept"),
            }
        }
    }

    fn changed_at(&self) -> [Option<SystemTime>; 2] {
        let at = |path: &Path| -> io::Result<SystemTime> { std::fs::metadata(path)?.modified() };
        [at(&self.cert).ok(), at(&self.key).ok()]
    }
}

fn load(cert: &Path, key: &Path) -> Result<CertifiedKey, FilesError> {
    let pem = |path: &Path, error| FilesError::Pem {
        path: path.to_owned(),
        error,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| pem(cert, error))?;
    if chain.is_empty() {
        return Err(FilesError::NoCertificate(cert.to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, error))?;
    let bad = |error| FilesError::Key {
        path: key.to_owned(),
        error,
    };
    let certified = CertifiedKey::new(chain, any_supported_type(&secret).map_err(bad)?);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(error) => Err(bad(error)),
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}
