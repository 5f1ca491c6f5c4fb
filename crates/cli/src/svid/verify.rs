//! Verifying as a service does, offline; with `--status`, also whether the task has ended.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use taskmint_client::{Endpoint, in_words};
use taskmint_id::bundle::BundleError;
use taskmint_id::{Bundle, BundleSet, SpiffeId, TrustDomain, X509Authority};
use taskmint_model::{SystemEntropy, Timestamp};
use taskmint_status::TaskBinding;
use taskmint_verifier::watch::{Options, Source, SystemClocks, Watch};
use taskmint_verifier::{Trust, judge, verify_jwt, verify_x509};

use super::read::{Svid, bytes, read};
use super::show::{bound, record};
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Field, Record, note, parse_duration};

/// How long the relay may take to bring a fresh head.
const SYNC: Duration = Duration::from_secs(10);

/// `taskmint svid verify`.
#[derive(Args, Debug)]
#[cfg_attr(test, derive(Default))]
pub struct Verify {
    /// Certificates as PEM, leaf first, or a token; `-` is standard input.
    pub(super) file: PathBuf,
    /// The trust bundle: SPIFFE JSON, or PEM.
    #[arg(long, env = "TASKMINT_TRUST_BUNDLE")]
    pub(super) bundle: PathBuf,
    /// Whose bundle it is, where it doesn't say; left out, the SVID's own trust domain is taken to
    /// be meant.
    #[arg(long)]
    pub(super) trust_domain: Option<String>,
    /// For tokens: who verifies.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) audience: String,
    /// For tokens: how far clocks may disagree.
    #[arg(long, value_parser = parse_duration)]
    pub(super) leeway: Option<Duration>,
    /// Also ask the agent's relay of the revocation log whether the task has ended.
    #[arg(long)]
    pub(super) status: bool,
    /// Tell each rule, and which one was broken.
    #[arg(long)]
    pub(super) explain: bool,
}

/// The outcome of the rules that need no network.
struct Verified {
    spiffe_id: SpiffeId,
    expires_at: Timestamp,
    binding: Option<TaskBinding>,
}

/// A broken rule.
struct Broken {
    reason: &'static str,
    message: String,
}

impl Verify {
    pub(super) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let svid = read(&self.file)?;
        let bundles = self.bundles(&svid)?;
        let rules = match svid {
            Svid::X509(_) => X509_RULES,
            Svid::Jwt(_) => JWT_RULES,
        };
        let outcome = match self.offline(&svid, &bundles, context.now()) {
            Ok(verified) if self.status => {
                let relay = context.global.revocation()?;
                status(relay, bundles, &verified).await?.map(|()| verified)
            }
            outcome => outcome,
        };
        if self.explain && !context.out.is_json() {
            let broken = outcome.as_ref().err().map(|broken| broken.reason);
            note(explain(rules, broken, self.status));
        }
        let verified = outcome.map_err(|broken| Failure::Refused {
            reason: broken.reason.to_owned(),
            message: broken.message,
        })?;
        let status = if self.status { "live" } else { "not asked" };
        let record = Record::new()
            .flag("verified", true)
            .text("spiffe_id", verified.spiffe_id.to_string())
            .instant("expires_at", verified.expires_at.millis())
            .text("status", status);
        context.out.one(&bound(record, verified.binding.as_ref()))
    }

    fn offline(
        &self,
        svid: &Svid,
        bundles: &BundleSet,
        now: Timestamp,
    ) -> Result<Verified, Broken> {
        match svid {
            Svid::X509(chain) => verify_x509(chain, bundles, now)
                .map(|peer| Verified {
                    spiffe_id: peer.spiffe_id,
                    expires_at: peer.not_after,
                    binding: peer.binding,
                })
                .map_err(|error| Broken {
                    reason: error.reason(),
                    message: in_words(&error),
                }),
            Svid::Jwt(token) => {
                let leeway = self.leeway.unwrap_or_default();
                verify_jwt(token, &self.audience, bundles, now, leeway)
                    .map(|token| Verified {
                        spiffe_id: token.spiffe_id,
                        expires_at: token.expires_at,
                        binding: token.binding,
                    })
                    .map_err(|error| Broken {
                        reason: error.reason(),
                        message: in_words(&error),
                    })
            }
        }
    }

    fn bundles(&self, svid: &Svid) -> Result<BundleSet, Failure> {
        if matches!(svid, Svid::Jwt(_)) && self.audience.is_empty() {
            return Err(Failure::usage(
                "a token is verified for somebody: name yourself by `--audience`",
            ));
        }
        let bytes = bytes(&self.bundle)?;
        let bad = |why: String| Failure::usage(format!("`{}`: {why}", self.bundle.display()));
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Ok([self.pem(svid, &bytes).map_err(bad)?].into_iter().collect());
        }
        match BundleSet::parse(&bytes) {
            Err(BundleError::TrustDomainsMissing) => {
                let bundle = Bundle::parse(self.meant(svid)?, &bytes);
                Ok([bundle.map_err(|error| bad(error.to_string()))?]
                    .into_iter()
                    .collect())
            }
            other => other.map_err(|error| bad(error.to_string())),
        }
    }

    fn pem(&self, svid: &Svid, bytes: &[u8]) -> Result<Bundle, String> {
        let mut bundle = Bundle::new(self.meant(svid).map_err(|failure| failure.text())?);
        for certificate in CertificateDer::pem_slice_iter(bytes) {
            let certificate = certificate.map_err(|error| error.to_string())?;
            let authority = X509Authority::from_der(&certificate);
            bundle.add_x509_authority(authority.map_err(|error| error.to_string())?);
        }
        Ok(bundle)
    }

    /// Whose bundle it is that doesn't say.
    fn meant(&self, svid: &Svid) -> Result<TrustDomain, Failure> {
        if let Some(name) = &self.trust_domain {
            return TrustDomain::parse(name).map_err(|error| Failure::usage(error.to_string()));
        }
        let id = record(svid)?
            .get("spiffe_id")
            .map(Field::show)
            .unwrap_or_default();
        let id = SpiffeId::parse(&id);
        let id = id.map_err(|error| Failure::Refused {
            reason: "SVID_ID_INVALID".to_owned(),
            message: error.to_string(),
        })?;
        Ok(id.trust_domain().clone())
    }
}

/// Whether the task may act, by a fresh head of the log.
async fn status(
    relay: Endpoint,
    bundles: BundleSet,
    verified: &Verified,
) -> Result<Result<(), Broken>, Failure> {
    let Endpoint::Unix(path) = relay else {
        return Err(Failure::usage("the relay is a unix socket"));
    };
    let trust_domain = verified.spiffe_id.trust_domain().clone();
    let options = Options::new(trust_domain, Source::Relay(path), "taskmint svid verify");
    let watch = Watch::start(
        options,
        Trust::new(bundles),
        Arc::new(SystemClocks),
        Arc::new(SystemEntropy),
    );
    let watch = watch.map_err(anyhow::Error::from)?;
    // Whatever is not known by then is refused, and the refusal says why.
    let synced = tokio::time::timeout(SYNC, watch.synced()).await;
    let judged = judge(&watch, &verified.spiffe_id, verified.binding.as_ref());
    drop(synced);
    Ok(judged.map_err(|refused| Broken {
        reason: refused.reason,
        message: refused.message,
    }))
}

/// A rule, and the reasons that say it was broken.
type Rule = (&'static str, &'static [&'static str]);

/// In the order in which they are applied.
const X509_RULES: &[Rule] = &[
    (
        "it is one well-formed certificate, and few others after it",
        &["SVID_MISSING", "SVID_CHAIN_TOO_LONG", "SVID_MALFORMED"],
    ),
    (
        "it is no authority: no CA bit, no signing of certificates or lists",
        &["SVID_IS_AUTHORITY"],
    ),
    (
        "it names exactly one SPIFFE ID, with a path",
        &[
            "SVID_WITHOUT_ID",
            "SVID_WITH_SEVERAL_IDS",
            "SVID_ID_INVALID",
        ],
    ),
    (
        "its task extension agrees with its serial number",
        &["SVID_BINDING_INVALID"],
    ),
    (
        "there is a bundle for its trust domain",
        &["TRUST_DOMAIN_UNKNOWN"],
    ),
    (
        "that bundle vouches for it, now",
        &["SVID_UNTRUSTED", "SVID_EXPIRED", "SVID_NOT_YET_VALID"],
    ),
    STATUS_RULE,
];

const JWT_RULES: &[Rule] = &[
    ("it is a well-formed token", &["TOKEN_MALFORMED"]),
    (
        "it is signed by ES256, with a named key",
        &["TOKEN_ALGORITHM_UNSUPPORTED", "TOKEN_WITHOUT_KEY_ID"],
    ),
    (
        "that key is in the bundle of its trust domain",
        &["TRUST_DOMAIN_UNKNOWN", "TOKEN_KEY_UNKNOWN"],
    ),
    ("the signature is that key's", &["TOKEN_SIGNATURE_INVALID"]),
    (
        "it is for this audience, now",
        &[
            "TOKEN_EXPIRED",
            "TOKEN_NOT_YET_VALID",
            "TOKEN_FOR_OTHER_AUDIENCE",
        ],
    ),
    ("its task claim is well-formed", &["TOKEN_BINDING_INVALID"]),
    STATUS_RULE,
];

/// Any other reason is the status's.
const STATUS_RULE: Rule = ("its task has not ended, by a fresh head of the log", &[]);

fn explain(rules: &[Rule], broken: Option<&str>, asked: bool) -> String {
    let at = broken.map(|reason| {
        let known = rules
            .iter()
            .position(|(_, reasons)| reasons.contains(&reason));
        known.unwrap_or(rules.len() - 1)
    });
    let mut lines = Vec::new();
    for (index, (rule, reasons)) in rules.iter().enumerate() {
        let is_status = reasons.is_empty();
        let mark = match at {
            Some(at) if index == at => "\u{1b}[31mno  \u{1b}[0m",
            Some(at) if index > at => "-   ",
            _ if is_status && !asked => "-   ",
            _ => "\u{1b}[32myes \u{1b}[0m",
        };
        lines.push(format!("{mark} {rule}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(rules: &[Rule], broken: Option<&str>, asked: bool) -> Vec<String> {
        let text = anstream::adapter::strip_str(&explain(rules, broken, asked)).to_string();
        text.lines()
            .map(|line| line.split_whitespace().next().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn rules_after_the_broken_one_were_not_applied() {
        assert_eq!(plain(X509_RULES, None, true), ["yes"; 7]);
        assert_eq!(
            plain(X509_RULES, Some("SVID_IS_AUTHORITY"), true),
            ["yes", "no", "-", "-", "-", "-", "-"]
        );
        let ended = plain(X509_RULES, Some("TASK_ENDED"), true);
        assert_eq!(ended, ["yes", "yes", "yes", "yes", "yes", "yes", "no"]);
        assert_eq!(plain(JWT_RULES, None, false).last().unwrap(), "-");
    }
}
