//! What the Workload API brought, as files have it.

use std::io::{self, ErrorKind};
use std::path::Path;

use pem_rfc7468::LineEnding;
use taskmint_client::{X509Context, X509Svid};

/// An SVID's certificates, leaf first.
pub(crate) fn chain(svid: &X509Svid) -> io::Result<String> {
    let chain = svid.chain.iter();
    chain.map(|der| pem("CERTIFICATE", der)).collect()
}

/// The authorities of its trust domain.
pub(crate) fn authorities(svid: &X509Svid, fetched: &X509Context) -> io::Result<String> {
    let bundle = fetched.bundles.get(svid.spiffe_id.trust_domain());
    let authorities = bundle
        .map(|bundle| bundle.x509_authorities())
        .unwrap_or_default();
    authorities
        .iter()
        .map(|authority| pem("CERTIFICATE", authority.der()))
        .collect()
}

/// PEM, in lines of 64. Made whole at first, so that no copy of a key is left behind.
pub(crate) fn pem(label: &str, der: &[u8]) -> io::Result<String> {
    pem_rfc7468::encode_string(label, LineEnding::LF, der).map_err(io::Error::other)
}

/// Removes what an earlier attempt may have left.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_read_back() {
        use rustls_pki_types::CertificateDer;
        use rustls_pki_types::pem::PemObject as _;
        for len in [1, 47, 48, 49, 300] {
            let der = vec![7; len];
            let text = pem("CERTIFICATE", &der).unwrap();
            assert_eq!(text, taskmint_testkit::pem("CERTIFICATE", &der));
            let read = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!(read.as_ref(), der);
        }
    }
}
