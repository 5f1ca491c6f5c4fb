//! Statuses and bundles kept fresh: the verifier that hears of an end, and says no when it hears
//! nothing.
//!
//! [`Watch::start`] opens the revocation log at a relay on the node or at the server, hands what
//! comes to [`taskmint_status::Watcher`], which believes only what a signed and fresh head covers,
//! and publishes the outcome for any number of readers, who take no lock. A [`Watch`] is a
//! [`StatusCheck`]; when the last clone of it is dropped, it stops.

mod bundles;
mod clocks;
mod events;
mod evidence;
mod follow;
mod frames;
mod keys;
mod outbox;
mod run;
mod state;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use taskmint_client::Endpoint;
use taskmint_id::TrustDomain;
use taskmint_model::Entropy;
use taskmint_status::{Config, Generation, LogId, Refusal, StatusView, TaskBinding, Verdict};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use bundles::Bundles;
pub use clocks::{Clocks, SystemClocks};
pub use events::{Event, Events};
pub use evidence::{Evidence, Unfounded};
pub use follow::GRACE;
pub use frames::{FrameError, read_frame};
pub use keys::{KeyRefused, LogKeys};
use state::Shared;
pub use state::State;

use crate::tls::{Identity, TlsError, authorize, client_config};
use crate::{Policy, Refused, StatusCheck, Trust};

/// Where the log comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// An agent's relay on this node, by its socket's path. It is not trusted: what it delays,
    /// drops or forges is noticed.
    Relay(PathBuf),
    /// A server of the trust domain, over mTLS.
    Server {
        /// Host and port.
        address: String,
        /// What we show.
        identity: Identity,
    },
}

/// What to watch, and how strictly.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose log. Its bundle certifies the log's keys.
    pub trust_domain: TrustDomain,
    /// Where it comes from.
    pub source: Source,
    /// What keeps the bundles fresh.
    pub bundles: Bundles,
    /// Shown to operators.
    pub name: String,
    /// How old the newest head may be. None: as the trust domain says; more than that never.
    pub staleness: Option<Duration>,
    /// How far this machine's clock may drift from the server's between two comparisons, at worst
    /// half a thousandth of the time that passes. None: 1 s, compared about every 17 minutes; more
    /// than 2 s never. A smaller one compares more often, and closes sooner where nobody answers.
    pub drift_allowance: Option<Duration>,
    /// The log, where it is known from elsewhere.
    pub expected: Option<(LogId, Generation)>,
    /// Whose credentials must name a task.
    pub policy: Policy,
}

impl Options {
    /// Watches a trust domain's log from `source`, with bundles that somebody else keeps, as
    /// strictly as the trust domain says. Credentials of the trust domain must name a task.
    pub fn new(trust_domain: TrustDomain, source: Source, name: impl Into<String>) -> Self {
        let policy = Policy::OwnTrustDomain(trust_domain.clone());
        let name = name.into();
        let (staleness, drift_allowance, expected) = (None, None, None);
        Self {
            trust_domain,
            source,
            bundles: Bundles::Held,
            name,
            staleness,
            drift_allowance,
            expected,
            policy,
        }
    }
}

/// Follows a revocation log. Clones share it.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    // Stops the task with the last clone.
    _stop: Arc<DropGuard>,
}

impl Watch {
    /// Starts watching, on the current tokio runtime. Until [`synced`](Self::synced) everything is
    /// refused.
    ///
    /// # Errors
    /// [`TlsError`] where the source is a server and TLS can't be configured.
    pub fn start(
        options: Options,
        trust: Trust,
        clocks: Arc<dyn Clocks>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, TlsError> {
        let endpoint = endpoint(&options, &trust, &clocks)?;
        let known = Config::default();
        let config = Config {
            expected: options.expected,
            staleness: options.staleness,
            drift_allowance: options.drift_allowance.unwrap_or(known.drift_allowance),
            ..known
        };
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared::new(
            StatusView::new(),
            Arc::clone(&clocks),
            options.policy,
        ));
        let run = run::Run {
            shared: Arc::clone(&shared),
            endpoint,
            trust: trust.clone(),
            trust_domain: options.trust_domain.clone(),
            name: options.name,
            instance: entropy.array(),
            entropy: Arc::clone(&entropy),
        };
        let bundles = bundles::follow(options.bundles, options.trust_domain, trust, entropy);
        tokio::spawn(stop.clone().run_until_cancelled_owned(run.run(config)));
        tokio::spawn(stop.clone().run_until_cancelled_owned(bundles));
        Ok(Self {
            shared,
            _stop: Arc::new(stop.drop_guard()),
        })
    }

    /// Where the watch stands.
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// Waits until statuses may be believed; at once if they may already.
    pub async fn synced(&self) {
        let mut reports = self.shared.reports();
        loop {
            reports.mark_unchanged();
            if self.shared.view.check(self.shared.clocks.now()).is_ok() {
                return;
            }
            if reports.changed().await.is_err() {
                // Nobody reports any more, so nothing will ever be believed.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What becomes of tasks from here on, each after it counts for [`StatusCheck::check`].
    pub fn subscribe(&self) -> Events {
        self.shared.subscribe()
    }

    fn refused(&self, refusal: Refusal) -> Refused {
        let (reason, words) = (refusal.reason(), self.shared.words(refusal));
        if refusal.is_about_place() {
            Refused::new(reason, words)
        } else {
            Refused::unavailable(reason, words)
        }
    }
}

impl StatusCheck for Watch {
    fn check(&self, binding: &TaskBinding) -> Result<(), Refused> {
        match self
            .shared
            .view
            .status(binding.place, self.shared.clocks.now())
        {
            Verdict::Valid => Ok(()),
            Verdict::Refused(refusal) => Err(self.refused(refusal)),
        }
    }

    fn policy(&self) -> Policy {
        self.shared.policy.clone()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.state()).finish()
    }
}

fn endpoint(
    options: &Options,
    trust: &Trust,
    clocks: &Arc<dyn Clocks>,
) -> Result<Endpoint, TlsError> {
    match &options.source {
        Source::Relay(path) => Ok(Endpoint::Unix(path.clone())),
        Source::Server { address, identity } => {
            let clock = Arc::new(clocks::Wall(Arc::clone(clocks)));
            let server = authorize::server(&options.trust_domain);
            // The server's status is not asked: it would have to come from the server itself.
            let config = client_config(Some(identity), trust, clock, server, None)?;
            Ok(Endpoint::Tls {
                address: address.clone(),
                config: Arc::new(config),
            })
        }
    }
}
