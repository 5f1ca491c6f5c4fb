//! Who may introspect: an SVID on the list whose task lives, or whoever knows a secret.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use taskmint_config::Public as Config;
use taskmint_id::SpiffeId;
use taskmint_issuer::Issuer;
use zeroize::Zeroizing;

use super::listener::Peer;
use super::problem::Problem;

/// The shortest secret that is taken.
const MIN_SECRET: usize = 32;

/// Who may introspect.
#[derive(Debug)]
pub(super) struct Callers {
    ids: Vec<SpiffeId>,
    /// SHA-256 of each: they are looked for in constant time, and not kept.
    secrets: Vec<[u8; 32]>,
}

impl Callers {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let secrets = config.introspect_secret_files.iter().map(secret);
        Ok(Self {
            ids: config.introspect_ids.clone(),
            secrets: secrets.collect::<anyhow::Result<_>>()?,
        })
    }

    /// Whether this caller may ask.
    pub(super) async fn admit(
        &self,
        issuer: &Issuer,
        peer: Option<&Peer>,
        headers: &HeaderMap,
    ) -> Result<(), Problem> {
        if self.knows(headers) {
            return Ok(());
        }
        let Some(svid) = peer.and_then(|peer| peer.svid.as_ref()) else {
            let detail = "an SVID that may introspect is needed, or a bearer secret";
            let status = StatusCode::UNAUTHORIZED;
            return Err(Problem::new(status, "NO_CREDENTIAL", detail).challenge("Bearer"));
        };
        // The handshake may be long ago: a connection does not outlive its task here.
        let live = match &svid.binding {
            Some(binding) => issuer.live_task(binding).await?.is_some(),
            None => false,
        };
        if live && self.ids.contains(&svid.spiffe_id) {
            return Ok(());
        }
        let detail = "this identity may not introspect";
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "MAY_NOT_INTROSPECT",
            detail,
        ))
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((_, given)) = given else {
            return false;
        };
        let given: [u8; 32] = Sha256::digest(given.trim()).into();
        // Every one is compared, so that the time tells nothing.
        self.secrets
            .iter()
            .fold(subtle::Choice::from(0), |known, secret| {
                known | secret.ct_eq(&given)
            })
            .into()
    }
}

fn secret(path: &PathBuf) -> anyhow::Result<[u8; 32]> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let text = Zeroizing::new(text);
    let secret = text.trim();
    ensure!(
        secret.len() >= MIN_SECRET && !secret.contains(char::is_whitespace),
        "{shown} must hold one secret of {MIN_SECRET} characters or more"
    );
    Ok(Sha256::digest(secret).into())
}
