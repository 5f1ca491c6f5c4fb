//! PEM, the only form in which Envoy takes certificates and keys.

use pem_rfc7468::LineEnding;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

/// Certificates that stand back to back, each in an envelope of its own.
pub(super) fn certificates(mut der: &[u8]) -> Result<String, pem_rfc7468::Error> {
    let mut text = String::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).map_err(|_| pem_rfc7468::Error::Preamble)?;
        let (one, rest) = der.split_at(der.len() - rest.len());
        text.push_str(&envelope("CERTIFICATE", one)?);
        der = rest;
    }
    Ok(text)
}

/// A key in PKCS#8.
pub(super) fn private_key(pkcs8: &[u8]) -> Result<Zeroizing<String>, pem_rfc7468::Error> {
    envelope("PRIVATE KEY", pkcs8).map(Zeroizing::new)
}

/// Any other thing in DER.
pub(super) fn envelope(label: &str, der: &[u8]) -> Result<String, pem_rfc7468::Error> {
    pem_rfc7468::encode_string(label, LineEnding::LF, der)
}

/// Certificates from percent-encoded PEM, as Envoy shows a peer's.
pub(super) fn from_percent_encoded(text: &str) -> Option<Vec<CertificateDer<'static>>> {
    let decoded = percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    CertificateDer::pem_slice_iter(&decoded)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
}

#[cfg(test)]
mod tests {
    use taskmint_id::TrustDomain;
    use taskmint_model::{Clock as _, SystemClock, SystemEntropy};
    use taskmint_testkit::TestCa;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let ca = TestCa::new(&trust_domain, SystemClock.now(), &SystemEntropy);
        let der = [ca.certificate(), ca.certificate()].concat();
        let text = certificates(&der).unwrap();
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2);
        let percent = text.replace('\n', "%0A").replace('+', "%2B");
        let chain = from_percent_encoded(&percent).unwrap();
        let read: Vec<u8> = chain.iter().flat_map(|der| der.to_vec()).collect();
        assert_eq!(read, der);
        for bad in ["", "%", "-----BEGIN CERTIFICATE-----%0A", "%ff%fe"] {
            assert!(from_percent_encoded(bad).is_none(), "`{bad}`");
        }
        assert!(certificates(&der[1..]).is_err());
    }
}
