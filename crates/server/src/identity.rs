//! The server's own SVID: under a task of its own, renewed at half-life, trusted like any other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use pem_rfc7468::LineEnding;
use rustls_pki_types::CertificateDer;
use taskmint_client::bootstrap::{JoinString, JoinToken};
use taskmint_id::{BundleSet, TrustDomain, X509Authority};
use taskmint_issuer::Issuer;
use taskmint_mint::{KeyAlgorithm, PublicKey};
use taskmint_model::Task;
use taskmint_verifier::tls::{Identity, Trust};
use zeroize::Zeroizing;

/// What the listeners show and trust; both change while they are open.
#[derive(Clone)]
pub(crate) struct OwnIdentity {
    pub(crate) identity: Identity,
    pub(crate) trust: Trust,
}

impl OwnIdentity {
    /// Mints the first SVID.
    pub(crate) async fn start(issuer: &Issuer) -> anyhow::Result<(Self, Renewal)> {
        let own = Self {
            identity: Identity::new(),
            trust: Trust::new(bundles(issuer)),
        };
        let renewal = own.renew(issuer, None).await?;
        Ok((own, renewal))
    }

    async fn renew(&self, issuer: &Issuer, before: Option<&Task>) -> anyhow::Result<Renewal> {
        let (pkcs8, spki) = new_key()?;
        let key = PublicKey {
            algorithm: KeyAlgorithm::EcP256,
            spki,
        };
        let (task, svid) = issuer.own_svid(key, before).await?;
        // The anchor travels along: a node that joins knows its hash and nothing else (P10).
        let anchor = issuer.ca_certificate().await?;
        let chain = vec![
            CertificateDer::from(svid.certificate),
            CertificateDer::from(anchor),
        ];
        self.identity
            .set(chain, &pkcs8)
            .context("the server's own SVID")?;
        let half = svid.expires_at.since(issuer.now()) / 2;
        Ok(Renewal { task, after: half })
    }

    /// Renews at half-life, and follows the bundle. Runs until dropped.
    pub(crate) async fn keep(&self, issuer: Arc<Issuer>, mut renewal: Renewal) {
        let mut bundle = issuer.bundle();
        let mut due = tokio::time::Instant::now() + renewal.after;
        loop {
            tokio::select! {
                changed = bundle.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    bundle.mark_unchanged();
                    self.trust.set(bundles(&issuer));
                    // Perhaps another CA signs now: what a joining node pins must be its anchor.
                    due = tokio::time::Instant::now();
                }
                () = tokio::time::sleep_until(due) => {
                    match self.renew(&issuer, Some(&renewal.task)).await {
                        Ok(next) => renewal = next,
                        Err(error) => {
                            tracing::error!(%error, "the server's own SVID could not be renewed");
                            renewal.after = Duration::from_secs(5);
                        }
                    }
                    due = tokio::time::Instant::now() + renewal.after;
                }
            }
        }
    }
}

/// The task of the SVID in use, and when it is due.
pub(crate) struct Renewal {
    task: Task,
    after: Duration,
}

pub(crate) fn bundles(issuer: &Issuer) -> BundleSet {
    let bundle = issuer.bundle().borrow().as_ref().clone();
    std::iter::once(bundle).collect()
}

/// A new P-256 key: PKCS#8 DER, and the SPKI DER of its public part.
fn new_key() -> anyhow::Result<(Zeroizing<Vec<u8>>, Vec<u8>)> {
    use p256::elliptic_curve::Generate;
    use p256::pkcs8::{EncodePrivateKey, EncodePublicKey};
    let key = p256::SecretKey::generate();
    let pkcs8 = key.to_pkcs8_der().context("encode a key")?;
    let spki = key
        .public_key()
        .to_public_key_der()
        .context("encode a key")?;
    Ok((
        Zeroizing::new(pkcs8.as_bytes().to_vec()),
        spki.as_bytes().to_vec(),
    ))
}

/// The bundle's anchors as PEM.
pub(crate) fn pem(bundle: &taskmint_id::Bundle) -> Result<String, pem_rfc7468::Error> {
    let authorities = bundle.x509_authorities().iter();
    authorities
        .map(|authority| pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, authority.der()))
        .collect()
}

/// Everything that a node needs to join, in one line (P10).
pub(crate) fn join_string(
    trust_domain: &TrustDomain,
    address: &str,
    anchor: &[u8],
    secret: &str,
) -> anyhow::Result<String> {
    let root_sha256 = *X509Authority::from_der(anchor)?.spki_sha256();
    let token = Some(JoinToken::new(secret)?);
    let join = JoinString::new(trust_domain.clone(), address, root_sha256, token)?;
    Ok(join.to_text()?.to_string())
}
