//! A CA of its own, made with the `p256` crate instead of ring.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer};
use serde_json::{Value, json};
use taskmint_id::{P256PublicKey, SpiffeId, TrustDomain};
use taskmint_model::{Entropy, Timestamp};

use crate::key::{PublicKey, TestKey};
use crate::leaf::{Constraints, LeafSpec, TestLeaf, Usage};
use crate::must;

/// A self-signed CA of a trust domain and a JWT key beside it.
pub struct TestCa {
    trust_domain: TrustDomain,
    params: CertificateParams,
    key: TestKey,
    jwt: TestKey,
    certificate: Vec<u8>,
}

impl TestCa {
    /// A CA valid from an hour ago to a day on.
    pub fn new(trust_domain: &TrustDomain, now: Timestamp, entropy: &dyn Entropy) -> Self {
        let key = TestKey::generate(entropy);
        let mut spec = LeafSpec::svid(&trust_domain.id(), now);
        spec.not_before = now - Duration::from_secs(3600);
        spec.not_after = now + Duration::from_secs(24 * 3600);
        spec.serial = vec![0x22; 16];
        spec.constraints = Constraints::Ca;
        spec.usages = vec![Usage::CertSign, Usage::CrlSign];
        spec.extended_usages = Vec::new();
        let mut params = spec.params(&key);
        let name = format!("Test CA {}", key.public().thumbprint_text());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = must(params.self_signed(&key)).der().to_vec();
        let jwt = TestKey::generate(entropy);
        Self {
            trust_domain: trust_domain.clone(),
            params,
            key,
            jwt,
            certificate,
        }
    }

    /// The trust domain that it is of.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The anchor, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The CA's public key.
    pub fn public(&self) -> &P256PublicKey {
        self.key.public()
    }

    /// The CA's key, for what no [`LeafSpec`] says.
    pub fn key(&self) -> &TestKey {
        &self.key
    }

    /// The key that signs tokens; its `kid` is its thumbprint.
    pub fn jwt_key(&self) -> &TestKey {
        &self.jwt
    }

    /// A leaf for a new key.
    pub fn issue(&self, spec: &LeafSpec, entropy: &dyn Entropy) -> TestLeaf {
        let key = TestKey::generate(entropy);
        TestLeaf {
            certificate: self.certify(spec, &key),
            key,
        }
    }

    /// A leaf for this key, DER.
    pub fn certify(&self, spec: &LeafSpec, key: &TestKey) -> Vec<u8> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        must(spec.params(key).signed_by(key, &issuer))
            .der()
            .to_vec()
    }

    /// A leaf for a key that somebody else made, DER.
    pub fn certify_public(&self, spec: &LeafSpec, key: &P256PublicKey) -> Vec<u8> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        let key = PublicKey(key.to_sec1());
        must(spec.params(&key).signed_by(&key, &issuer))
            .der()
            .to_vec()
    }

    /// A good X.509-SVID.
    pub fn svid(&self, id: &SpiffeId, now: Timestamp, entropy: &dyn Entropy) -> TestLeaf {
        self.issue(&LeafSpec::svid(id, now), entropy)
    }

    /// A JWT-SVID with these claims and the header that it should have.
    pub fn token(&self, claims: &Value) -> String {
        let kid = self.jwt.public().thumbprint_text();
        self.jwt
            .token(&json!({ "alg": "ES256", "kid": kid, "typ": "JWT" }), claims)
    }

    /// The claims of a good JWT-SVID.
    pub fn claims(id: &SpiffeId, audience: &str, now: Timestamp) -> Value {
        let (iat, exp) = (now.secs(), now.secs() + 120);
        json!({ "sub": id.as_str(), "aud": audience, "iat": iat, "exp": exp, "jti": "0" })
    }
}

#[cfg(test)]
mod tests {
    use taskmint_model::Clock as _;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;
    use crate::{ManualClock, SeededEntropy};

    #[test]
    fn a_leaf_names_its_id_and_its_ca_signed_it() {
        let entropy = SeededEntropy::new(1);
        let now = ManualClock::default().now();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let ca = TestCa::new(&trust_domain, now, &entropy);
        let id = SpiffeId::new(&trust_domain, "/billing").unwrap();
        let leaf = ca.svid(&id, now, &entropy);
        let (_, anchor) = X509Certificate::from_der(ca.certificate()).unwrap();
        let (_, parsed) = X509Certificate::from_der(&leaf.certificate).unwrap();
        assert_eq!(parsed.issuer(), anchor.subject());
        assert_eq!(parsed.public_key().raw, leaf.key.spki());
        assert!(!parsed.is_ca() && anchor.is_ca());
    }

    #[test]
    fn a_spec_can_be_wrong_in_ways_that_an_authority_never_is() {
        let entropy = SeededEntropy::new(1);
        let now = ManualClock::default().now();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let ca = TestCa::new(&trust_domain, now, &entropy);
        let mut spec = LeafSpec::svid(&trust_domain.id(), now);
        spec.constraints = Constraints::Ca;
        spec.uris.push("https://example.org/".to_owned());
        let leaf = ca.issue(&spec, &entropy);
        let (_, parsed) = X509Certificate::from_der(&leaf.certificate).unwrap();
        assert!(parsed.is_ca());
        assert_eq!(
            parsed
                .subject_alternative_name()
                .unwrap()
                .unwrap()
                .value
                .general_names
                .len(),
            2
        );
    }
}
