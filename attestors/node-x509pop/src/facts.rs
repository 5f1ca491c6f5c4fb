//! What a certificate says of its node.

use sha2::{Digest as _, Sha256};
use taskmint_attest::{AttestError, ServerContext};
use taskmint_model::Selector;
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::NAME;
use crate::chain::Chain;
use crate::proof::refused;
use crate::roots::Roots;

/// The most common names that become selectors.
const MAX_NAMES: usize = 8;

/// What a chain that leads to a configured CA says of its leaf.
pub(crate) struct Facts {
    /// SHA-256 of the leaf, lower-case hex.
    pub(crate) fingerprint: String,
    pub(crate) selectors: Vec<Selector>,
}

impl Facts {
    /// Verifies the chain and reads it.
    ///
    /// # Errors
    /// A refusal, if the chain leads to no configured CA or the leaf may not be used for this.
    pub(crate) fn of(
        chain: &Chain,
        roots: &Roots,
        context: &ServerContext<'_>,
    ) -> Result<Self, AttestError> {
        let authorities = roots.path(chain, context.now)?;
        let malformed = || AttestError::Malformed {
            what: "the certificate",
        };
        let leaf = EndEntityCert::try_from(chain.leaf()).map_err(|_| malformed())?;
        let (_, parsed) = X509Certificate::from_der(chain.leaf()).map_err(|_| malformed())?;
        let usage = parsed.key_usage().map_err(|_| malformed())?;
        if usage.is_some_and(|usage| !usage.value.digital_signature()) {
            return Err(refused("CERTIFICATE_UNFIT", NOT_FOR_SIGNATURES));
        }
        if leaf
            .valid_uri_names()
            .any(|uri| is_within(uri, context.trust_domain))
        {
            return Err(refused("CERTIFICATE_IS_SVID", SVID));
        }
        let mut selectors = Vec::new();
        for name in parsed.subject().iter_common_name().take(MAX_NAMES) {
            // A name that can't be written is left out: fewer selectors match fewer entries.
            let written = name.as_str().map(|cn| format!("subject:cn:{cn}"));
            selectors.extend(
                written
                    .ok()
                    .and_then(|text| Selector::new(NAME, &text).ok()),
            );
        }
        for authority in authorities {
            let text = format!("ca:fingerprint:{}", hex::encode(authority));
            selectors.push(Selector::new(NAME, &text)?);
        }
        let serial = format!("serialnumber:{}", serial(leaf.serial()));
        selectors.push(Selector::new(NAME, &serial)?);
        Ok(Self {
            fingerprint: hex::encode(Sha256::digest(chain.leaf())),
            selectors,
        })
    }
}

const NOT_FOR_SIGNATURES: &str = "the first certificate's key usage does not allow signatures \
    (`digitalSignature`)";

const SVID: &str = "the first certificate is an SVID of this trust domain, which proves a workload \
    and never a node";

/// Whether a URI name is a SPIFFE ID of this trust domain, even one that is written badly.
fn is_within(uri: &str, trust_domain: &str) -> bool {
    let uri = uri.to_ascii_lowercase();
    uri.strip_prefix("spiffe://")
        .and_then(|rest| rest.split('/').next())
        .is_some_and(|domain| domain == trust_domain)
}

/// Lower-case hex without the octet that DER puts before a high bit.
fn serial(octets: &[u8]) -> String {
    match octets {
        [0, rest @ ..] if !rest.is_empty() => hex::encode(rest),
        octets => hex::encode(octets),
    }
}
