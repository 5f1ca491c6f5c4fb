//! RFC 5280 paths, from a leaf to the authorities of its own trust domain and no other.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use taskmint_id::{Bundle, BundleSet};
use taskmint_model::Timestamp;
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter,
    anchor_from_trusted_cert,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::peer::{self, PeerSvid, SvidError};

/// The most certificates that a peer may present: what a path may have, and the root sent along.
const MAX_CHAIN: usize = 8;

/// Verifies an X.509-SVID: leaf first, then intermediates in any order. A root sent along is
/// tolerated and not trusted.
///
/// Only the bundle of the leaf's own trust domain vouches for it (X509-30), so a certificate that
/// names `a` is refused below the roots of `b` even where both are trusted.
///
/// This says nothing about the task behind it: ask a [`StatusCheck`](crate::StatusCheck).
///
/// # Errors
/// [`SvidError`]: the first rule broken.
pub fn verify_x509(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: Timestamp,
) -> Result<PeerSvid, SvidError> {
    let (leaf, others) = chain.split_first().ok_or(SvidError::NoCertificate)?;
    if chain.len() > MAX_CHAIN {
        return Err(SvidError::TooManyCertificates(chain.len()));
    }
    let peer = peer::read(leaf)?;
    let trust_domain = peer.spiffe_id.trust_domain();
    let bundle = bundles
        .get(trust_domain)
        .ok_or_else(|| SvidError::UnknownTrustDomain(trust_domain.clone()))?;
    verify_path(leaf, others, bundle, now, TlsPeer)?;
    Ok(peer)
}

/// Finds a path from `leaf` to an authority of `bundle` that is valid at `now`.
pub(crate) fn verify_path(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    bundle: &Bundle,
    now: Timestamp,
    usage: impl ExtendedKeyUsageValidator,
) -> Result<(), SvidError> {
    let authorities = live_authorities(bundle, now);
    let anchors: Vec<TrustAnchor<'_>> = authorities
        .iter()
        .filter_map(|der| anchor_from_trusted_cert(der).ok())
        .collect();
    let end_entity = EndEntityCert::try_from(leaf).map_err(refused)?;
    let at = UnixTime::since_unix_epoch(Duration::from_millis(now.millis()));
    end_entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            others,
            at,
            usage,
            None,
            None,
        )
        .map(drop)
        .map_err(refused)
}

/// webpki looks at no dates of anchors, so an expired root would vouch for ever.
fn live_authorities(bundle: &Bundle, now: Timestamp) -> Vec<CertificateDer<'_>> {
    let live = |der: &CertificateDer<'_>| {
        X509Certificate::from_der(der)
            .is_ok_and(|(_, authority)| peer::not_after(&authority).secs() >= now.secs())
    };
    let authorities = bundle.x509_authorities().iter();
    authorities
        .map(|authority| CertificateDer::from(authority.der()))
        .filter(live)
        .collect()
}

fn refused(error: webpki::Error) -> SvidError {
    match error {
        webpki::Error::CertExpired { .. } => SvidError::Expired,
        webpki::Error::CertNotValidYet { .. } => SvidError::NotYetValid,
        webpki::Error::CaUsedAsEndEntity => SvidError::Ca,
        other => SvidError::Path(other),
    }
}

/// Extended usages of a leaf and of the CAs above it: none named, or both of TLS (X509-23).
struct TlsPeer;

impl ExtendedKeyUsageValidator for TlsPeer {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // id-kp-serverAuth and id-kp-clientAuth, 1.3.6.1.5.5.7.3.1 and .2
        let server = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 1]);
        let client = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2]);
        let (mut any, mut serves, mut calls) = (false, false, false);
        for usage in usages {
            let usage = usage?;
            any = true;
            serves |= usage == server;
            calls |= usage == client;
        }
        if !any {
            return Ok(());
        }
        let missing = if serves {
            &webpki::KeyUsage::client_auth()
        } else {
            &webpki::KeyUsage::server_auth()
        };
        if serves && calls {
            Ok(())
        } else {
            Err(not_found(missing))
        }
    }
}

fn not_found(required: &webpki::KeyUsage) -> webpki::Error {
    webpki::Error::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext {
        required: *required,
        present: Vec::new(),
    })
}
