//! Bundles of several trust domains, and the SPIFFE bundle map.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::document::check_length;
use super::{Bundle, BundleError, Reading};
use crate::{TrustDomain, json};

/// Most bytes of one bundle map: 16 MiB.
pub const MAX_BUNDLE_SET: usize = 16 << 20;
/// Most trust domains in one bundle map.
pub const MAX_TRUST_DOMAINS: usize = 1024;

/// At most one bundle for each trust domain. There is no way to ask it for all roots at once:
/// a certificate is checked against the bundle of its own trust domain only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleSet {
    bundles: BTreeMap<TrustDomain, Bundle>,
}

impl BundleSet {
    /// A set of none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a bundle in the place of its trust domain's former one, which is returned.
    pub fn insert(&mut self, bundle: Bundle) -> Option<Bundle> {
        self.bundles.insert(bundle.trust_domain().clone(), bundle)
    }

    /// Takes the bundle of a trust domain out.
    pub fn remove(&mut self, trust_domain: &TrustDomain) -> Option<Bundle> {
        self.bundles.remove(trust_domain)
    }

    /// The bundle of a trust domain. None means untrusted.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        self.bundles.get(trust_domain)
    }

    /// All bundles, by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Bundle> {
        self.bundles.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bundles.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }

    /// Reads a bundle map, whole or not at all. Refresh hints inside it are dropped, as they
    /// must not drive how often the map is read.
    ///
    /// # Errors
    ///
    /// [`BundleError`]; a trust domain named twice is [`BundleError::Json`].
    pub fn parse(text: &[u8]) -> Result<Self, BundleError> {
        check_length(text, MAX_BUNDLE_SET)?;
        let document = json::parse(text).map_err(BundleError::Json)?;
        let document = document.as_object().ok_or(BundleError::NotAnObject)?;
        let named = document.get("trust_domains").and_then(Value::as_object);
        let named = named.ok_or(BundleError::TrustDomainsMissing)?;
        if named.len() > MAX_TRUST_DOMAINS {
            return Err(BundleError::TooManyTrustDomains { count: named.len() });
        }
        named
            .iter()
            .map(|(name, bundle)| read(name, bundle))
            .collect()
    }

    /// The bundle map, without refresh hints.
    pub fn to_json(&self) -> String {
        let bundles: BTreeMap<&str, Value> = self
            .bundles
            .iter()
            .map(|(name, bundle)| {
                (
                    name.as_str(),
                    bundle.clone().without_refresh_hint().to_value(),
                )
            })
            .collect();
        json!({ "trust_domains": bundles }).to_string()
    }
}

impl FromIterator<Bundle> for BundleSet {
    fn from_iter<I: IntoIterator<Item = Bundle>>(bundles: I) -> Self {
        let bundles = bundles
            .into_iter()
            .map(|bundle| (bundle.trust_domain().clone(), bundle));
        Self {
            bundles: bundles.collect(),
        }
    }
}

fn read(name: &str, document: &Value) -> Result<Bundle, BundleError> {
    let trust_domain = TrustDomain::parse(name).map_err(|source| BundleError::TrustDomain {
        name: json::shown(name),
        source,
    })?;
    match Bundle::from_value(trust_domain.clone(), document) {
        Ok(Reading { bundle, .. }) => Ok(bundle.without_refresh_hint()),
        Err(source) => Err(BundleError::In {
            trust_domain,
            source: Box::new(source),
        }),
    }
}
