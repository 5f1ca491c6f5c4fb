//! Trust bundles kept fresh, from a Workload API or a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use taskmint_client::{Backoff, Endpoint, WorkloadApi};
use taskmint_id::bundle::BundleError;
use taskmint_id::{Bundle, BundleSet, TrustDomain};
use taskmint_model::Entropy;
use tokio::time::sleep;

use super::run::backoff;
use crate::Trust;

/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What keeps the bundles fresh. Whatever fails, the ones known last stay.
#[derive(Clone, Debug, Default)]
pub enum Bundles {
    /// Whoever holds the [`Trust`].
    #[default]
    Held,
    /// A Workload API: X.509 and JWT bundles as they are pushed.
    WorkloadApi(Endpoint),
    /// A file in SPIFFE JSON, a bundle of the watched trust domain or a bundle map; read again
    /// when it changes.
    File(PathBuf),
}

pub(super) async fn follow(
    bundles: Bundles,
    trust_domain: TrustDomain,
    trust: Trust,
    entropy: Arc<dyn Entropy>,
) {
    match bundles {
        Bundles::Held => {}
        Bundles::WorkloadApi(endpoint) => workload_api(&endpoint, &trust, entropy).await,
        Bundles::File(path) => file(&path, &trust_domain, &trust).await,
    }
}

async fn workload_api(endpoint: &Endpoint, trust: &Trust, entropy: Arc<dyn Entropy>) {
    let mut backoff = backoff();
    let (mut x509, mut jwt) = (BundleSet::new(), BundleSet::new());
    loop {
        let over = streams(endpoint, trust, &mut x509, &mut jwt, &mut backoff).await;
        tracing::warn!(%endpoint, trouble = %over, "bundles are not kept fresh");
        sleep(backoff.next(&*entropy)).await;
    }
}

/// Takes over what both streams push, until one of them is over; says why.
async fn streams(
    endpoint: &Endpoint,
    trust: &Trust,
    x509: &mut BundleSet,
    jwt: &mut BundleSet,
    backoff: &mut Backoff,
) -> String {
    let api = match WorkloadApi::connect(endpoint).await {
        Ok(api) => api,
        Err(error) => return error.to_string(),
    };
    let (mut certificates, mut keys) = match tokio::join!(api.x509_bundles(), api.jwt_bundles()) {
        (Ok(certificates), Ok(keys)) => (certificates, keys),
        (Err(error), _) | (_, Err(error)) => return error.to_string(),
    };
    loop {
        let (kind, pushed) = tokio::select! {
            pushed = certificates.next() => (&mut *x509, pushed),
            pushed = keys.next() => (&mut *jwt, pushed),
        };
        match pushed {
            Some(Ok(bundles)) => *kind = bundles,
            Some(Err(error)) => return error.to_string(),
            None => return "the stream ended".to_owned(),
        }
        backoff.reset();
        trust.set(joined(x509, jwt));
    }
}

/// The Workload API hands out each trust domain's certificates and keys apart.
fn joined(x509: &BundleSet, jwt: &BundleSet) -> BundleSet {
    let mut joined = x509.clone();
    for keys in jwt.iter() {
        let trust_domain = keys.trust_domain();
        let mut bundle = joined
            .remove(trust_domain)
            .unwrap_or_else(|| Bundle::new(trust_domain.clone()));
        for (key_id, key) in keys.jwt_authorities() {
            // Ids are unique within `keys`, and the X.509 half has none.
            if let Err(error) = bundle.add_jwt_authority(key_id, *key) {
                tracing::warn!(%trust_domain, %error, "a jwt key is left out");
            }
        }
        joined.insert(bundle);
    }
    joined
}

async fn file(path: &Path, trust_domain: &TrustDomain, trust: &Trust) {
    let mut seen = None;
    loop {
        let stamp = stamp(path).await;
        if stamp != seen {
            match read(path, trust_domain).await {
                Ok(bundles) => trust.set(merged(trust, bundles)),
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%path, trouble = %error, "bundles are not kept fresh");
                }
            }
            seen = stamp;
        }
        sleep(LOOK).await;
    }
}

/// Trust domains that the file doesn't speak of are somebody else's to keep.
fn merged(trust: &Trust, bundles: BundleSet) -> BundleSet {
    let mut merged = BundleSet::clone(&trust.get());
    for bundle in bundles.iter() {
        merged.insert(bundle.clone());
    }
    merged
}

async fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

async fn read(path: &Path, trust_domain: &TrustDomain) -> Result<BundleSet, String> {
    let text = tokio::fs::read(path)
        .await
        .map_err(|error| error.to_string())?;
    match BundleSet::parse(&text) {
        Err(BundleError::TrustDomainsMissing) => {
            let bundle = Bundle::parse(trust_domain.clone(), &text);
            Ok([bundle.map_err(|error| error.to_string())?]
                .into_iter()
                .collect())
        }
        other => other.map_err(|error| error.to_string()),
    }
}
