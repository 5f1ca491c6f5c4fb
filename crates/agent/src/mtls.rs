//! The real way to the server: mTLS, with the root pinned until there is a bundle (P10).

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rustls_pki_types::CertificateDer;
use taskmint_attest::NodeProver;
use taskmint_client::bootstrap::{self, BootstrapError, JoinString};
use taskmint_client::{Endpoint, connect};
use taskmint_config::secret::{self, SecretError};
use taskmint_id::{BundleSet, TrustDomain};
use taskmint_model::Clock;
use taskmint_node_join_token::JoinTokenProver;
use taskmint_node_x509pop::X509PopProver;
use taskmint_verifier::Trust;
use taskmint_verifier::tls::{Identity, authorize, client_config};
use tokio::sync::Mutex;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::identity::NodeIdentity;
use crate::settings::{JoinSource, NodeProof, ServerAddress, Settings};
use crate::upstream::{Bootstrap, Upstream, UpstreamError};

/// Reaches the server over TLS.
pub(crate) struct Mtls {
    join: JoinSource,
    given: Mutex<Given>,
    server: ServerAddress,
    proof: NodeProof,
    trust_domain: Option<TrustDomain>,
    clock: Arc<dyn Clock>,
}

/// What standard input gave: it can be read only once, and an attempt may have to be repeated.
#[derive(Default)]
enum Given {
    #[default]
    Nothing,
    Text(Zeroizing<Vec<u8>>),
    /// The node is attested: what is left says whom to trust, and has no token.
    Spent(JoinString),
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Mtls {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            join: settings.join.clone(),
            given: Mutex::default(),
            server: settings.server.clone(),
            proof: settings.proof.clone(),
            trust_domain: settings.trust_domain.clone(),
            clock: Arc::clone(&settings.clock),
        }
    }

    /// The join string, or what the configuration says in its place. A file is read anew each time:
    /// an operator may have put a fresh one there.
    async fn join_string(&self) -> Result<JoinString, UpstreamError> {
        let mut join = match &self.join {
            JoinSource::None => self.pinned()?,
            JoinSource::Text(text) => parse(text)?,
            JoinSource::File(path) => parse_octets(&read_secret(path).await?)?,
            JoinSource::StandardInput => self.given().await?,
        };
        if let Some(address) = &self.server.node {
            join.address.clone_from(address);
        }
        Ok(join)
    }

    async fn given(&self) -> Result<JoinString, UpstreamError> {
        let mut given = self.given.lock().await;
        if let Given::Nothing = &*given {
            *given = Given::Text(wait_for(secret::read_standard_input).await?);
        }
        match &*given {
            Given::Text(text) => parse_octets(text),
            Given::Spent(join) => Ok(join.clone()),
            Given::Nothing => Err(missing("standard input gave nothing".to_owned())),
        }
    }

    fn pinned(&self) -> Result<JoinString, UpstreamError> {
        let ServerAddress {
            node: Some(address),
            root_sha256: Some(root),
            ..
        } = &self.server
        else {
            let why = "this node is not attested, and there is no join string; write \
                       `join_string_file`, a file with what `taskmint token create` printed";
            return Err(missing(why.to_owned()));
        };
        let trust_domain = self.trust_domain.clone().ok_or_else(|| {
            missing("without a join string, the trust domain must be configured".to_owned())
        })?;
        JoinString::new(trust_domain, address.clone(), *root, None)
            .map_err(|error| missing(error.to_string()))
    }

    async fn prover(&self, join: &JoinString) -> Result<Arc<dyn NodeProver>, UpstreamError> {
        // One arm for each node attestor.
        match &self.proof {
            NodeProof::JoinToken => {
                let token = join.token.as_ref().ok_or_else(|| match &self.join {
                    JoinSource::StandardInput => missing(
                        "the join string from standard input has no token, or it was used; start \
                         the agent with a fresh one"
                            .to_owned(),
                    ),
                    _ => missing("the join string has no token; make one with a token".to_owned()),
                })?;
                let token = Zeroizing::new(token.expose().to_owned());
                Ok(Arc::new(JoinTokenProver::new(token)))
            }
            NodeProof::X509Pop {
                certificate_file,
                key_file,
            } => {
                let chain = tokio::fs::read(certificate_file).await.map_err(|error| {
                    missing(format!(
                        "can't read `{}`: {error}",
                        certificate_file.display()
                    ))
                })?;
                let key = read_secret(key_file).await?;
                let prover = X509PopProver::from_pem(&chain, &key).map_err(|error| {
                    missing(format!("`{}`: {error}", certificate_file.display()))
                })?;
                Ok(Arc::new(prover))
            }
        }
    }

    async fn connect(
        &self,
        address: &str,
        identity: &NodeIdentity,
    ) -> Result<Channel, UpstreamError> {
        let unreachable = |source: Cause| UpstreamError::Unreachable {
            address: address.to_owned(),
            source,
        };
        // An identity of its own for each connection: a renewed SVID must not be shown on one that
        // was opened under the old (P11).
        let shown = Identity::new();
        let chain = vec![CertificateDer::from(identity.certificate.clone())];
        shown
            .set(chain, identity.private_key())
            .map_err(|e| unreachable(e.into()))?;
        let trust = Trust::new(BundleSet::from_iter([identity.bundle.clone()]));
        let server = authorize::server(identity.trust_domain());
        let clock = Arc::clone(&self.clock);
        let config = client_config(Some(&shown), &trust, clock, server, None)
            .map_err(|e| unreachable(e.into()))?;
        let endpoint = Endpoint::Tls {
            address: address.to_owned(),
            config: Arc::new(config),
        };
        connect(&endpoint).await.map_err(|e| unreachable(e.into()))
    }
}

#[async_trait]
impl Upstream for Mtls {
    async fn bootstrap(&self) -> Result<Bootstrap, UpstreamError> {
        let join = self.join_string().await?;
        let prover = self.prover(&join).await?;
        let connected = bootstrap::connect(&join, Arc::clone(&self.clock)).await;
        let connected = connected.map_err(|error: BootstrapError| {
            let address = join.address.clone();
            UpstreamError::Unreachable {
                address,
                source: error.into(),
            }
        })?;
        Ok(Bootstrap {
            channel: connected.channel,
            exporter: connected.exporter,
            trust_domain: join.trust_domain.clone(),
            server: join.address.clone(),
            prover,
        })
    }

    async fn attested(&self) {
        let mut given = self.given.lock().await;
        if let Given::Text(text) = &*given
            && let Ok(join) = parse_octets(text)
        {
            // The text is wiped as it is dropped, and the token with the one that was parsed.
            *given = Given::Spent(JoinString {
                token: None,
                ..join
            });
        }
    }

    async fn nodes(&self, identity: &NodeIdentity) -> Result<Channel, UpstreamError> {
        let address = self.server.node.as_ref().unwrap_or(&identity.server);
        self.connect(address, identity).await
    }

    async fn watch(
        &self,
        address: &str,
        identity: &NodeIdentity,
    ) -> Result<Channel, UpstreamError> {
        self.connect(address, identity).await
    }
}

fn parse(text: &str) -> Result<JoinString, UpstreamError> {
    text.parse()
        .map_err(|error: bootstrap::JoinStringError| missing(error.to_string()))
}

fn parse_octets(octets: &[u8]) -> Result<JoinString, UpstreamError> {
    let text = str::from_utf8(octets);
    parse(text.map_err(|_| missing("the join string is no text".to_owned()))?)
}

fn missing(why: String) -> UpstreamError {
    UpstreamError::Bootstrap { why }
}

async fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, UpstreamError> {
    let path = path.to_owned();
    wait_for(move || secret::read(&path)).await
}

async fn wait_for(
    read: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, SecretError> + Send + 'static,
) -> Result<Zeroizing<Vec<u8>>, UpstreamError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(secret)) => Ok(secret),
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map(|e| format!(": {e}"));
            Err(missing(format!("{error}{}", cause.unwrap_or_default())))
        }
        Err(error) => Err(missing(format!("a secret could not be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use taskmint_client::bootstrap::JoinToken;

    use super::*;

    fn mtls() -> Mtls {
        Mtls {
            join: JoinSource::StandardInput,
            given: Mutex::default(),
            server: ServerAddress::default(),
            proof: NodeProof::JoinToken,
            trust_domain: None,
            clock: Arc::new(taskmint_model::SystemClock),
        }
    }

    #[tokio::test]
    async fn a_join_string_from_standard_input_is_kept_until_it_was_used() {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let token = JoinToken::new("secret").unwrap();
        let join = JoinString::new(trust_domain, "server:1", [7; 32], Some(token)).unwrap();
        let text = Zeroizing::new(join.to_text().unwrap().as_bytes().to_vec());
        let mtls = mtls();
        *mtls.given.lock().await = Given::Text(text);
        for _ in 0..2 {
            assert!(mtls.join_string().await.unwrap().token.is_some());
        }
        mtls.attested().await;
        let spent = mtls.join_string().await.unwrap();
        assert_eq!(
            (spent.root_sha256, spent.token.is_none()),
            (join.root_sha256, true)
        );
        assert!(matches!(*mtls.given.lock().await, Given::Spent(_)));
        let Err(refused) = mtls.prover(&spent).await else {
            panic!("it proves itself by nothing")
        };
        assert!(refused.to_string().contains("a fresh one"), "{refused}");
    }
}
