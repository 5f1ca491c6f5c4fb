//! The judge in the handshake, for both sides.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use taskmint_id::Kind;
use taskmint_model::{Clock, Timestamp};

use super::{Authorize, PeerRefused, check_status};
use crate::{StatusCheck, Trust, verify_x509};

/// Judges a peer by chain, then by who it is, then by its task's status.
pub(super) struct PeerVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    trust: Trust,
    clock: Arc<dyn Clock>,
    authorize: Authorize,
    status: Option<Arc<dyn StatusCheck>>,
    optional: bool,
    /// How long past its expiry a node's SVID passes.
    node_grace: Duration,
}

impl PeerVerifier {
    pub(super) fn new(
        provider: &CryptoProvider,
        trust: &Trust,
        clock: Arc<dyn Clock>,
        authorize: Authorize,
        status: Option<Arc<dyn StatusCheck>>,
    ) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self {
            algorithms,
            trust: trust.clone(),
            clock,
            authorize,
            status,
            optional: false,
            node_grace: Duration::ZERO,
        }
    }

    pub(super) fn optional(mut self, optional: bool) -> Self {
        self.optional = optional;
        self
    }

    pub(super) fn node_grace(mut self, grace: Duration) -> Self {
        self.node_grace = grace;
        self
    }

    /// The instant that the peer is judged at: now, or the last one at which an expired node's SVID
    /// counted, while its grace lasts.
    fn instant(&self, leaf: &CertificateDer<'_>) -> Timestamp {
        let now = self.clock.now();
        if self.node_grace.is_zero() {
            return now;
        }
        match crate::peer::read(leaf) {
            Ok(peer) if peer.spiffe_id.kind() == Kind::Node && now > peer.not_after => {
                if now <= peer.not_after + self.node_grace {
                    peer.not_after
                } else {
                    now
                }
            }
            _ => now,
        }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), PeerRefused> {
        let chain: Vec<_> = std::iter::once(leaf).chain(others).cloned().collect();
        let peer = verify_x509(&chain, &self.trust.get(), self.instant(leaf))?;
        (self.authorize)(&peer).map_err(|why| PeerRefused::Unauthorized {
            spiffe_id: peer.spiffe_id.clone(),
            why,
        })?;
        match &self.status {
            Some(status) => check_status(&peer, status.as_ref()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerVerifier")
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, others)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Hints would name our authorities to everyone who connects.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf, others)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
