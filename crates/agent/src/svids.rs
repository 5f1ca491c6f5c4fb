//! One X.509-SVID for each task, over a key that is made here and goes nowhere else. All callers
//! that see a task share it; it is minted when somebody asks, and again once half its life is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_model::{Clock, Entropy, TaskId, Timestamp};
use taskmint_wire::retry_after_of;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::denial::Denial;
use crate::identity::half_with_jitter;
use crate::key::PrivateKey;
use crate::mint::Minter;
use crate::server::is_transient;

/// How long a failed renewal rests before the next attempt.
const RETRY: Duration = Duration::from_secs(5);

/// An SVID with its key, which is wiped once nobody uses it.
pub(crate) struct Svid {
    /// DER, leaf first.
    pub(crate) certificate: Vec<u8>,
    /// PKCS#8 DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// Last instant at which it counts.
    pub(crate) expires_at: Timestamp,
    /// Tells it from all others that this agent ever had.
    pub(crate) number: u64,
}

/// An SVID, and when to ask again.
pub(crate) struct Fetched {
    pub(crate) svid: Arc<Svid>,
    pub(crate) ask_again: Timestamp,
}

/// All SVIDs of this node's tasks.
pub(crate) struct Svids {
    cells: Mutex<HashMap<TaskId, Arc<Cell>>>,
    minter: Arc<Minter>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    number: AtomicU64,
}

/// One task's; locked while it is minted, so that many callers cost one mint.
#[derive(Default)]
struct Cell(tokio::sync::Mutex<Option<Fetched>>);

impl Svids {
    pub(crate) fn new(
        minter: Arc<Minter>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            cells: Mutex::default(),
            minter,
            clock,
            entropy,
            number: AtomicU64::new(0),
        }
    }

    /// The task's SVID, minted or renewed if that is due. While the server can't be reached, or says
    /// that too much is asked of it, the old one goes on until it expires.
    ///
    /// # Errors
    /// What the server refuses; that it can't be reached, once nothing valid is left.
    pub(crate) async fn get(&self, task: TaskId) -> Result<Fetched, Status> {
        let cell = Arc::clone(self.cells.lock().entry(task).or_default());
        let mut current = cell.0.lock().await;
        let now = self.clock.now();
        if let Some(fetched) = current.as_ref()
            && now < fetched.ask_again
            && now < fetched.svid.expires_at
        {
            return Ok(fetched.clone());
        }
        match self.mint(task).await {
            Ok(fetched) => {
                *current = Some(fetched.clone());
                Ok(fetched)
            }
            Err(status) if is_transient(&status) => match current.as_mut() {
                Some(old) if now < old.svid.expires_at => {
                    let wait = retry_after_of(&status).map_or(RETRY, |told| told.max(RETRY));
                    old.ask_again = (now + wait).min(old.svid.expires_at);
                    Ok(old.clone())
                }
                _ => Err(status),
            },
            Err(status) => {
                *current = None;
                // Its end may have come before this asked: nobody else would drop the cell then.
                self.forget(task);
                Err(status)
            }
        }
    }

    /// Keeps an SVID that came with the begin of its task.
    pub(crate) async fn put(
        &self,
        task: TaskId,
        key: PrivateKey,
        certificate: Vec<u8>,
        expires_at: Timestamp,
    ) -> Arc<Svid> {
        let cell = Arc::clone(self.cells.lock().entry(task).or_default());
        let fetched = self.fetched(key, certificate, expires_at);
        let svid = Arc::clone(&fetched.svid);
        *cell.0.lock().await = Some(fetched);
        svid
    }

    /// Drops the SVID and wipes the key of a task that is over.
    pub(crate) fn forget(&self, task: TaskId) {
        self.cells.lock().remove(&task);
    }

    async fn mint(&self, task: TaskId) -> Result<Fetched, Status> {
        let key = PrivateKey::generate().map_err(|error| {
            tracing::error!(%error, "no SVID");
            Denial::new(Code::Internal, "FAULT", "a fault of ours; it is in the log").status()
        })?;
        let minted = self.minter.x509(task, key.spki.clone()).await?;
        Ok(self.fetched(key, minted.credential, minted.expires_at))
    }

    fn fetched(&self, key: PrivateKey, certificate: Vec<u8>, expires_at: Timestamp) -> Fetched {
        let now = self.clock.now();
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let svid = Svid {
            certificate,
            key: key.pkcs8,
            expires_at,
            number,
        };
        let half = half_with_jitter(expires_at.since(now), self.entropy.fraction());
        Fetched {
            svid: Arc::new(svid),
            ask_again: now + half,
        }
    }
}

impl Clone for Fetched {
    fn clone(&self) -> Self {
        Self {
            svid: Arc::clone(&self.svid),
            ask_again: self.ask_again,
        }
    }
}
