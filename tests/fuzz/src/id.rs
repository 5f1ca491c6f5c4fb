//! Names, keys, bundles and tokens of SPIFFE.

use taskmint_id::csr::{MAX_CSR, key_of_csr};
use taskmint_id::jws::UnverifiedToken;
use taskmint_id::{Bundle, BundleSet, Jwk, P256PublicKey, PathPrefix, SpiffeId, TrustDomain};
use taskmint_id::{X509Authority, jws};

/// An id is its text, and is what its two parts make.
pub fn spiffe_id(data: &[u8]) {
    let Ok(id) = SpiffeId::from_bytes(data) else {
        return;
    };
    assert_eq!(id.as_str().as_bytes(), data);
    assert_eq!(
        SpiffeId::new(id.trust_domain(), id.path()).as_ref(),
        Ok(&id)
    );
    assert_eq!(
        TrustDomain::parse(id.trust_domain().as_str()).as_ref(),
        Ok(id.trust_domain())
    );
    assert_eq!(id.is_root(), id.path().is_empty());
    if !id.is_root() {
        let prefix = PathPrefix::parse(id.path()).expect("a path is a prefix");
        assert!(id.under(&prefix) && PathPrefix::everything().contains(&prefix));
    }
}

/// A bundle that was read is read the same from what is written of it.
pub fn bundle(data: &[u8]) {
    let Ok(reading) = Bundle::read(domain(), data) else {
        return;
    };
    let json = reading.bundle.to_json();
    let again = Bundle::read(domain(), json.as_bytes()).expect("our own writing");
    assert_eq!(again.bundle, reading.bundle);
    assert_eq!(again.ignored, [], "we write nothing that we ignore");
}

/// The same for a map of bundles.
pub fn bundle_set(data: &[u8]) {
    let Ok(set) = BundleSet::parse(data) else {
        return;
    };
    let again = BundleSet::parse(set.to_json().as_bytes()).expect("our own writing");
    assert!(again.iter().eq(set.iter()));
}

/// The same for a key, which is on its curve in each of its forms.
pub fn jwk(data: &[u8]) {
    let Ok(jwk) = Jwk::parse(data) else { return };
    let again = Jwk::parse(jwk.to_value().to_string().as_bytes()).expect("our own writing");
    assert_eq!(again.to_value(), jwk.to_value());
    let (spki, sec1) = (jwk.key.to_spki_der(), jwk.key.to_sec1());
    assert_eq!(
        P256PublicKey::from_spki_der(&spki)
            .expect("a point")
            .to_sec1(),
        sec1
    );
    assert_eq!(
        P256PublicKey::from_sec1(&sec1)
            .expect("a point")
            .to_spki_der(),
        spki
    );
}

/// A token of ours has a subject with a path, an audience, and never the algorithm `none`.
pub fn jwt(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(token) = UnverifiedToken::parse(text) else {
        return;
    };
    assert!(!token.claims.subject.is_root());
    assert!(!token.claims.audience.is_empty());
    assert!(!token.signature.is_empty());
    assert!(text.starts_with(token.signing_input));
    let compact = jws::Compact::split(text).expect("the parts of what was parsed");
    assert_eq!(compact.signature, token.signature);
}

/// A certificate is kept as it came.
pub fn certificate(data: &[u8]) {
    let Ok(authority) = X509Authority::from_der(data) else {
        return;
    };
    assert_eq!(authority.der(), data);
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

/// A request's key is its own, and nothing follows the request.
pub fn csr(data: &[u8]) {
    let Ok(key) = key_of_csr(data) else { return };
    assert!(data.len() <= MAX_CSR);
    let spki = key.to_spki_der();
    assert!(data.windows(spki.len()).any(|part| part == spki.as_slice()));
    assert!(key_of_csr(&[data, &[0]].concat()).is_err());
}
