//! A verifier that says its verdicts aloud, for services in other languages and for the chaos tests.
//!
//! `judge RELAY-SOCKET WORKLOAD-API-SOCKET TRUST-DOMAIN NAME`
//!
//! Each line of standard input is a word and a certificate, DER in hexadecimal. The answer is a line
//! with the same word, the time in milliseconds since 1970 before the verdict was asked for, and
//! `ok` or the stable name of the refusal.

use std::io::{BufRead as _, Write as _};
use std::sync::Arc;

use anyhow::Context as _;
use rustls_pki_types::CertificateDer;
use taskmint_client::Endpoint;
use taskmint_model::{Clock as _, SystemClock, SystemEntropy};
use taskmint_verifier::watch::{Bundles, Options, Source, SystemClocks, Watch};
use taskmint_verifier::{StatusCheck, Trust, verify_x509};

/// `ok`, or why not.
fn judge(watch: &Watch, trust: &Trust, leaf: Vec<u8>) -> String {
    let chain = [CertificateDer::from(leaf)];
    let peer = match verify_x509(&chain, &trust.get(), SystemClock.now()) {
        Ok(peer) => peer,
        Err(error) => return format!("SVID: {error}").replace('\n', " "),
    };
    let Some(binding) = peer.binding else {
        return "TASK_MISSING".to_owned();
    };
    let verdict = watch.check(&binding);
    verdict.map_or_else(|refused| refused.reason.to_owned(), |()| "ok".to_owned())
}

fn octets(hex: &str) -> anyhow::Result<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    let octet = |pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    pairs.map(octet).collect()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let mut word = |what: &'static str| words.next().context(what);
    let source = Source::Relay(word("which relay?")?.into());
    let workload = Endpoint::Unix(word("which workload api?")?.into());
    let trust_domain = word("which trust domain?")?.parse()?;
    let mut options = Options::new(trust_domain, source, word("which name?")?);
    options.bundles = Bundles::WorkloadApi(workload);
    let (clocks, entropy) = (Arc::new(SystemClocks), Arc::new(SystemEntropy));
    let trust = Trust::default();
    let watch = Watch::start(options, trust.clone(), clocks, entropy)?;
    tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let (name, leaf) = line.split_once(' ').context("a word and a certificate")?;
            let at = SystemClock.now().millis();
            let verdict = judge(&watch, &trust, octets(leaf)?);
            // At once: whoever asked waits for it.
            let mut output = std::io::stdout().lock();
            writeln!(output, "{name} {at} {verdict}")?;
            output.flush()?;
        }
        anyhow::Ok(())
    })
    .await?
}
