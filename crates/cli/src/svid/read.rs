//! Certificates and tokens from files.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::exit::Failure;

/// Longer is no SVID.
const MAX: u64 = 1 << 20;

/// What a file holds.
#[derive(Debug, PartialEq)]
pub(super) enum Svid {
    /// A chain, leaf first.
    X509(Vec<CertificateDer<'static>>),
    /// A token.
    Jwt(String),
}

/// Reads a file; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Svid, Failure> {
    parse(&bytes(path)?)
}

/// The bytes of a file; `-` is standard input.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let shown = path.display();
    if path == Path::new("-") {
        std::io::stdin().take(MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX + 1).read_to_end(&mut bytes))
    }
    .with_context(|| format!("cannot read `{shown}`"))?;
    if bytes.len() as u64 > MAX {
        return Err(Failure::usage(format!("`{shown}` is too long for an SVID")));
    }
    Ok(bytes)
}

/// PEM certificates, or else a token.
pub(super) fn parse(bytes: &[u8]) -> Result<Svid, Failure> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match certificates {
        Ok(chain) if !chain.is_empty() => return Ok(Svid::X509(chain)),
        Err(_) => return Err(Failure::usage("the PEM in it is damaged")),
        Ok(_) => {}
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    if text.split('.').count() == 3 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(Svid::Jwt(text.to_owned()));
    }
    Err(Failure::usage(
        "it holds neither certificates as PEM nor a token",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_svid_is_refused() {
        for bytes in [&b""[..], b"hello", b"a.b", b"a.b .c", b"\xff.\xff.\xff"] {
            assert_eq!(parse(bytes).unwrap_err().code(), crate::exit::USAGE);
        }
        assert_eq!(parse(b" a.b.c\n").unwrap(), Svid::Jwt("a.b.c".to_owned()));
    }
}
