//! What an issuer is told once, at start.

use std::collections::HashSet;
use std::time::Duration;

use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_lifecycle::Defaults;

/// What an issuer is told once, at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The trust domain that it issues for.
    pub trust_domain: TrustDomain,
    /// Its own identity, below `/taskmint/server/`.
    pub server: SpiffeId,
    /// Of tasks.
    pub defaults: Defaults,
    /// Lifetime of a workload's X.509-SVID, unless its entry says otherwise.
    pub x509_ttl: Duration,
    /// Lifetime of a JWT-SVID, unless its entry says otherwise.
    pub jwt_ttl: Duration,
    /// The longest X.509-SVID of a workload, whatever its entry says.
    pub x509_ttl_cap: Duration,
    /// The longest JWT-SVID, whatever its entry says.
    pub jwt_ttl_cap: Duration,
    /// Lifetime of a node's SVID (P11).
    pub node_ttl: Duration,
    /// How long past its expiry a node's SVID may still be renewed (P11).
    pub node_grace: Duration,
    /// Lifetime of the server's own SVID.
    pub server_ttl: Duration,
    /// Lifetime of a CA.
    pub ca_ttl: Duration,
    /// How far credentials are backdated for clock skew (P33).
    pub backdate: Duration,
    /// How long a node may be silent (P12).
    pub lease: Duration,
    /// How old a head may become before verifiers close (P17).
    pub max_age: Duration,
    /// How far the clocks of a verifier may part from ours before it closes (P17): the most that
    /// verifiers of the trust domain are given.
    pub drift_allowance: Duration,
    /// Whose watchers are waited for beside those whose entry says so (P19).
    pub waited_for: HashSet<SpiffeId>,
    /// How often a head is signed when nothing happens.
    pub heartbeat: Duration,
    /// Leeway that verifiers grant on expiry; the floor waits for it (P16), and so do receipts (P18).
    pub leeway: Duration,
    /// How many request ids one calling process may have remembered (P6).
    pub max_request_ids: u32,
    /// Address under which status lists are served (P21).
    pub public_url: Option<String>,
    /// How long a CRL counts (P22).
    pub crl_ttl: Duration,
    /// How long a change may wait for the next CRL, so that many share one.
    pub crl_interval: Duration,
    /// How long a copy of a status list may be used.
    pub status_list_ttl: Duration,
    /// How long a status list counts.
    pub status_list_lifetime: Duration,
    /// Credentials of one entry: a second, and at once after a pause.
    pub per_entry: (u32, u32),
}

impl Settings {
    /// Defaults for everything but names: what `dev` and the tests run with.
    pub fn new(trust_domain: TrustDomain, server: SpiffeId) -> Self {
        const HOUR: u64 = 3600;
        Self {
            trust_domain,
            server,
            defaults: Defaults::default(),
            x509_ttl: Duration::from_secs(600),
            jwt_ttl: Duration::from_secs(120),
            x509_ttl_cap: Duration::from_secs(HOUR),
            jwt_ttl_cap: Duration::from_secs(HOUR),
            node_ttl: Duration::from_secs(24 * HOUR),
            node_grace: Duration::from_secs(7 * 24 * HOUR),
            server_ttl: Duration::from_secs(24 * HOUR),
            ca_ttl: Duration::from_secs(90 * 24 * HOUR),
            backdate: Duration::from_secs(30),
            lease: Duration::from_secs(60),
            max_age: Duration::from_secs(30),
            drift_allowance: Duration::from_secs(2),
            waited_for: HashSet::new(),
            heartbeat: Duration::from_secs(10),
            leeway: Duration::from_secs(60),
            max_request_ids: 4_096,
            public_url: None,
            crl_ttl: Duration::from_secs(600),
            crl_interval: Duration::from_secs(10),
            status_list_ttl: Duration::from_secs(30),
            status_list_lifetime: Duration::from_secs(300),
            per_entry: (5_000, 10_000),
        }
    }
}
