//! Envoy's secret discovery service, state of the world: what was asked for by name, at once and on
//! every change. The caller is attested as on the Workload API; a name grants nothing.
//!
//! | name | secret |
//! |---|---|
//! | `default` | the first SVID that the caller has |
//! | `<spiffe id>` | the first SVID with this id |
//! | `<spiffe id>#<task id>` | the SVID of this task |
//! | `ROOTCA`, `ALL`, `spiffe://<trust domain>` | the trust domain's authorities, with CRLs where it has any |
//! | none at all | everything |

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message as _;
use prost_types::Any;
use taskmint_id::Bundle;
use taskmint_wire::envoy::core::{DataSource, data_source::Specifier};
use taskmint_wire::envoy::discovery::{DiscoveryRequest, DiscoveryResponse};
use taskmint_wire::envoy::secret::secret_discovery_service_server::SecretDiscoveryService;
use taskmint_wire::envoy::tls::{
    CertificateValidationContext, Secret, TlsCertificate, secret::Type,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::pem;
use crate::agent::Agent;
use crate::caller::{Caller, Connection};
use crate::denial::Denial;
use crate::holding::Held;
use crate::knowledge::Crls;
use crate::stream::{Have, Look, Stream, crls_for, entitled, have, print_of};
use crate::svids::Svid;

const ACTION: &str = "StreamSecrets";

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Names in one request: a listener and a cluster need a handful.
const MAX_NAMES: usize = 64;

/// Octets in a name: a SPIFFE ID has at most 2,048, a task id and `#` 37 more.
const MAX_NAME: usize = 2_085;

/// The service over an agent.
#[derive(Clone)]
pub(crate) struct Secrets(pub(crate) Arc<Agent>);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Names(Vec<String>);

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type StreamSecretsStream = ReceiverStream<Result<DiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let connection = self.0.admit(&request)?;
        let (out, secrets) = mpsc::channel(1);
        let agent = Arc::clone(&self.0);
        tokio::spawn(async move {
            let followed = follow(agent, connection, request.into_inner(), out.clone()).await;
            if let Err(status) = followed {
                // Who went away meanwhile needs no last word.
                drop(out.send(Err(status)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(secrets)))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let caller = self.0.caller(&request, "FetchSecrets").await?;
        let names = Names::read(request.get_ref())?;
        let look = secrets(&self.0, &caller, &names, 1).await?;
        Ok(Response::new(look.message))
    }
}

/// Serves one stream: whenever other names are asked for, from the start.
async fn follow(
    agent: Arc<Agent>,
    connection: Connection,
    mut requests: Streaming<DiscoveryRequest>,
    out: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) -> Result<(), Status> {
    let Some(first) = requests.message().await? else {
        return Ok(());
    };
    let mut names = Names::read(&first)?;
    let version = Arc::new(AtomicU64::new(0));
    loop {
        let stream = Stream::new(Arc::clone(&agent), connection.clone(), ACTION, out.clone());
        let (asked, version) = (names.clone(), Arc::clone(&version));
        let look = move |agent: Arc<Agent>, caller: Caller| {
            let (asked, version) = (asked.clone(), Arc::clone(&version));
            async move {
                let number = version.fetch_add(1, Ordering::Relaxed) + 1;
                secrets(&agent, &caller, &asked, number).await
            }
        };
        tokio::select! {
            () = stream.run(look) => return Ok(()),
            others = other_names(&mut requests, &names) => match others? {
                Some(others) => names = others,
                None => return Ok(()),
            },
        }
    }
}

/// Reads until something else is asked for; none once the caller is done. What only says that a
/// response was taken, or was not, needs no answer.
async fn other_names(
    requests: &mut Streaming<DiscoveryRequest>,
    names: &Names,
) -> Result<Option<Names>, Status> {
    while let Some(request) = requests.message().await? {
        if let Some(error) = &request.error_detail {
            tracing::warn!(error = error.message, "envoy did not take its secrets");
        }
        let asked = Names::read(&request)?;
        if asked != *names {
            return Ok(Some(asked));
        }
    }
    Ok(None)
}

impl Names {
    fn read(request: &DiscoveryRequest) -> Result<Self, Status> {
        if !request.type_url.is_empty() && request.type_url != TYPE {
            let message = format!("`{}` is no type of secret", request.type_url);
            return Err(Denial::invalid("TYPE_URL", message).status());
        }
        let names = &request.resource_names;
        if names.len() > MAX_NAMES || names.iter().any(|name| name.len() > MAX_NAME) {
            let message = format!("at most {MAX_NAMES} names of at most {MAX_NAME} octets");
            return Err(Denial::invalid("TOO_MANY_NAMES", message).status());
        }
        Ok(Self(names.clone()))
    }

    /// Whether nothing but authorities is asked for: that opens no task (P3).
    fn only_trust(&self, bundle: &Bundle) -> bool {
        !self.0.is_empty() && self.0.iter().all(|name| is_trust(name, bundle))
    }
}

fn is_trust(name: &str, bundle: &Bundle) -> bool {
    name == "ROOTCA" || name == "ALL" || name == bundle.trust_domain().id().as_str()
}

async fn secrets(
    agent: &Arc<Agent>,
    caller: &Caller,
    names: &Names,
    number: u64,
) -> Result<Look<DiscoveryResponse>, Status> {
    let bundle = agent.knowledge.bundle().ok_or_else(crate::view::starting)?;
    if names.only_trust(&bundle) {
        let bundle = entitled(agent, caller, ACTION)?;
        let crls = crls_for(agent, caller)?;
        let wanted = names.0.iter();
        let wanted = wanted.map(|name| trust(name, &bundle, crls.as_ref()));
        return Ok(Look {
            message: response(wanted.collect::<Result<_, _>>()?, number),
            print: print_of(&bundle).with_crls(crls),
            next: agent.clock.now() + crate::stream::LOOK,
        });
    }
    let have = have(agent, caller, ACTION).await?;
    let mut found = Vec::new();
    for name in &names.0 {
        found.push(named(name, &have)?);
    }
    if names.0.is_empty() {
        found = everything(&have)?;
    }
    Ok(Look {
        message: response(found, number),
        print: have.print,
        next: have.next,
    })
}

fn named(name: &str, have: &Have) -> Result<Secret, Status> {
    if is_trust(name, &have.bundle) {
        return trust(name, &have.bundle, have.crls.as_ref());
    }
    let (id, task) = match name.split_once('#') {
        Some((id, task)) => (id, Some(task)),
        None => (name, None),
    };
    let is_meant = |held: &Held| {
        let by_id = id == "default" || held.task.spiffe_id.as_str() == id;
        by_id && task.is_none_or(|task| held.task.id.to_string() == task)
    };
    let meant = have.svids.iter().find(|(held, ..)| is_meant(held));
    let (_, svid, _) = meant.ok_or_else(|| {
        Denial::new(
            Code::NotFound,
            "NO_SUCH_SECRET",
            format!("this process has no secret `{name}`"),
        )
        .fix("ask for `default`, `ROOTCA`, a SPIFFE ID, or `<spiffe id>#<task id>`")
        .status()
    })?;
    certificate(name.to_owned(), svid)
}

/// The first of an id by the id alone, the others with their task.
fn everything(have: &Have) -> Result<Vec<Secret>, Status> {
    let mut names: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for (held, svid, _) in &have.svids {
        let mut name = held.task.spiffe_id.to_string();
        if names.contains(&name) {
            name = format!("{name}#{}", held.task.id);
        }
        found.push(certificate(name.clone(), svid)?);
        names.push(name);
    }
    let id = have.bundle.trust_domain().id().to_string();
    found.push(trust(&id, &have.bundle, have.crls.as_ref())?);
    Ok(found)
}

fn certificate(name: String, svid: &Svid) -> Result<Secret, Status> {
    let chain = pem::certificates(&svid.certificate).map_err(fault)?;
    let key = pem::private_key(&svid.key).map_err(fault)?;
    let certificate = TlsCertificate {
        certificate_chain: inline(chain.into_bytes()),
        private_key: inline(key.as_bytes().to_vec()),
    };
    Ok(Secret {
        name,
        r#type: Some(Type::TlsCertificate(certificate)),
    })
}

/// Envoy wants a list for every authority of a chain, and these are of all.
fn trust(name: &str, bundle: &Bundle, crls: Option<&Crls>) -> Result<Secret, Status> {
    let authorities = pem::certificates(&bundle.x509_der()).map_err(fault)?;
    let lists = crls.map_or(&[][..], |lists| lists.as_slice());
    let lists = lists.iter().map(|list| pem::envelope("X509 CRL", list));
    let lists: String = lists.collect::<Result<_, _>>().map_err(fault)?;
    let context = CertificateValidationContext {
        trusted_ca: inline(authorities.into_bytes()),
        crl: (!lists.is_empty())
            .then(|| inline(lists.into_bytes()))
            .flatten(),
        only_verify_leaf_cert_crl: false,
    };
    Ok(Secret {
        name: name.to_owned(),
        r#type: Some(Type::ValidationContext(context)),
    })
}

fn inline(octets: Vec<u8>) -> Option<DataSource> {
    let specifier = Some(Specifier::InlineBytes(octets));
    Some(DataSource { specifier })
}

fn response(secrets: Vec<Secret>, number: u64) -> DiscoveryResponse {
    let resources = secrets.into_iter().map(|secret| Any {
        type_url: TYPE.to_owned(),
        value: secret.encode_to_vec(),
    });
    DiscoveryResponse {
        version_info: number.to_string(),
        resources: resources.collect(),
        type_url: TYPE.to_owned(),
        nonce: number.to_string(),
    }
}

fn fault(error: impl std::fmt::Display) -> Status {
    tracing::error!(%error, "no secret");
    Denial::new(Code::Internal, "FAULT", "a fault of ours; it is in the log").status()
}
