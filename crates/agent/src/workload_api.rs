//! The SPIFFE Workload API: five calls, and nothing added (WEP-21, WAPI-04).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use taskmint_client::in_words;
use taskmint_id::{BundleSet, SpiffeId};
use taskmint_model::Authority;
use taskmint_verifier::{VerifiedToken, judge, verify_jwt};
use taskmint_wire::workload;
use taskmint_wire::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::agent::Agent;
use crate::begin::fault;
use crate::caller::{Caller, Connection};
use crate::claims;
use crate::denial::Denial;
use crate::holding::Held;
use crate::order::{Hinted, hints};
use crate::server::is_transient;
use crate::stream::{Look, Stream, jwt_bundles, nothing, without_task, x509_bundles, x509_svids};
use crate::view::starting;

/// How much clocks may disagree about a token.
const LEEWAY: Duration = Duration::from_secs(10);

/// The Workload API over an agent.
#[derive(Clone)]
pub(crate) struct WorkloadApi(pub(crate) Arc<Agent>);

type Messages<M> = ReceiverStream<Result<M, Status>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Messages<workload::X509svidResponse>;
    type FetchX509BundlesStream = Messages<workload::X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<workload::JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<workload::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.stream(&request, "FetchX509SVID", x509_svids)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<workload::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.stream(&request, "FetchX509Bundles", x509_bundles)
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<workload::JwtsvidRequest>,
    ) -> Result<Response<workload::JwtsvidResponse>, Status> {
        let connection = self.0.admit(&request)?;
        let ask = request.into_inner();
        check_audience(&ask.audience)?;
        let wanted = spiffe_id(&ask.spiffe_id)?;
        let agent = Arc::clone(&self.0);
        // On its own: it may begin a task, which must not be forgotten if the caller goes away.
        let fetched = tokio::spawn(async move {
            let caller = agent.attest(&connection, "FetchJWTSVID").await?;
            jwt_svids(&agent, &caller, ask.audience, wanted).await
        });
        fetched
            .await
            .unwrap_or_else(|error| Err(fault(&error)))
            .map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<workload::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.stream(&request, "FetchJWTBundles", jwt_bundles)
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<workload::ValidateJwtsvidRequest>,
    ) -> Result<Response<workload::ValidateJwtsvidResponse>, Status> {
        let connection = self.0.admit(&request)?;
        let ask = request.get_ref();
        check_audience(std::slice::from_ref(&ask.audience))?;
        if ask.svid.is_empty() {
            return Err(Denial::invalid("TOKEN_MISSING", "there is no token to validate").status());
        }
        let caller = self.0.attest(&connection, "ValidateJWTSVID").await?;
        self.0.entitle(&caller, "ValidateJWTSVID")?;
        let token = self.0.verify(&ask.svid, &ask.audience)?;
        Ok(Response::new(workload::ValidateJwtsvidResponse {
            spiffe_id: token.spiffe_id.to_string(),
            claims: Some(claims::to_struct(&token.claims)),
        }))
    }
}

impl WorkloadApi {
    fn stream<T, M, F>(
        &self,
        request: &Request<T>,
        action: &'static str,
        look: impl Fn(Arc<Agent>, Caller) -> F + Send + Sync + 'static,
    ) -> Result<Response<Messages<M>>, Status>
    where
        M: Send + 'static,
        F: Future<Output = Result<Look<M>, Status>> + Send + 'static,
    {
        let connection: Connection = self.0.admit(request)?;
        let (out, messages) = mpsc::channel(1);
        let stream = Stream::new(Arc::clone(&self.0), connection, action, out);
        tokio::spawn(stream.run(look));
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Agent {
    /// Verifies a token by this trust domain's keys, and asks whether its task still is.
    fn verify(&self, token: &str, audience: &str) -> Result<VerifiedToken, Status> {
        let bundle = self.knowledge.bundle().ok_or_else(starting)?;
        let bundles = BundleSet::from_iter([(*bundle).clone()]);
        let token = verify_jwt(token, audience, &bundles, self.clock.now(), LEEWAY)
            .map_err(|error| Denial::invalid(error.reason(), in_words(&error)).status())?;
        match judge(&self.status, &token.spiffe_id, token.binding.as_ref()) {
            Ok(()) => Ok(token),
            // Nothing is known against it, but nothing for it either.
            Err(refused) if refused.unavailable => {
                let denial = Denial::new(Code::Unavailable, refused.reason, refused.message);
                Err(denial.fix("try again").status())
            }
            Err(refused) => Err(Denial::invalid(refused.reason, refused.message).status()),
        }
    }
}

/// One token for each SPIFFE ID that the caller has, or for the one that it wants.
async fn jwt_svids(
    agent: &Arc<Agent>,
    caller: &Caller,
    audience: Vec<String>,
    wanted: Option<SpiffeId>,
) -> Result<workload::JwtsvidResponse, Status> {
    let view = agent.view(caller).await?;
    if view.tasks.is_empty() {
        return Err(nothing(agent, caller, "FetchJWTSVID", None, view.missing));
    }
    let chosen = choose(&view.tasks, &audience, wanted.as_ref());
    if chosen.is_empty() {
        let why = "this process has no task with the SPIFFE ID that it asks for";
        let denial = Denial::no_identity("NOT_YOUR_IDENTITY", why)
            .fix("ask without a SPIFFE ID, or for one of your own");
        return Err(agent.denials.give(caller, "FetchJWTSVID", denial));
    }
    let minted = chosen
        .iter()
        .map(|held| agent.minter.jwt(held.task.id, audience.clone()));
    let minted = join_all(minted).await;
    let hints = hints(&hinted(&chosen, &view.entries));
    let mut svids = Vec::new();
    let mut refused = None;
    for ((held, hint), minted) in chosen.iter().zip(hints).zip(minted) {
        match minted {
            Ok(minted) => svids.push(workload::Jwtsvid {
                spiffe_id: held.task.spiffe_id.to_string(),
                svid: minted.credential,
                hint,
            }),
            Err(status) => refused = refused.or(Some(status)),
        }
    }
    match refused {
        // An identity that may not speak to this audience takes nothing from the others.
        Some(status) if svids.is_empty() || is_transient(&status) => Err(without_task(status)),
        _ => Ok(workload::JwtsvidResponse { svids }),
    }
}

/// The first task of each SPIFFE ID; of several, the first that may ask for the audience.
fn choose<'a>(tasks: &'a [Held], audience: &[String], wanted: Option<&SpiffeId>) -> Vec<&'a Held> {
    let may = |held: &&Held| {
        audience
            .iter()
            .all(|a| held.task.authority.allows_audience(a))
    };
    let mut ids = HashSet::new();
    let fits = |held: &&Held| wanted.is_none_or(|id| *id == held.task.spiffe_id);
    let firsts = tasks
        .iter()
        .filter(fits)
        .filter(|held| ids.insert(&held.task.spiffe_id));
    let chosen = firsts.map(|first| {
        let same = |held: &&Held| held.task.spiffe_id == first.task.spiffe_id;
        tasks.iter().filter(same).find(may).unwrap_or(first)
    });
    chosen.collect()
}

fn hinted<'a>(chosen: &[&'a Held], entries: &'a crate::knowledge::Entries) -> Vec<Hinted<'a>> {
    let hint = |held: &Held| held.task.entry.and_then(|id| entries.get(id));
    let hinted = chosen.iter().map(|held| Hinted {
        task: held.task.id,
        entry: held.task.entry,
        hint: hint(held).map_or("", |entry| entry.hint.as_str()),
    });
    hinted.collect()
}

/// Bounded as the tasks' own audiences are.
pub(crate) fn check_audience(audience: &[String]) -> Result<(), Status> {
    let bad = |message: String| Err(Denial::invalid("BAD_AUDIENCE", message).status());
    if audience.is_empty() || audience.iter().any(String::is_empty) {
        return bad("an audience is needed, and none may be empty".to_owned());
    }
    let of_all = Authority {
        audiences: audience.iter().cloned().collect(),
        ..Authority::default()
    };
    if audience.len() > Authority::MAX_ITEMS {
        return bad(format!(
            "at most {} audiences are accepted",
            Authority::MAX_ITEMS
        ));
    }
    of_all.validate().or_else(|error| bad(error.to_string()))
}

fn spiffe_id(text: &str) -> Result<Option<SpiffeId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = SpiffeId::parse(text);
    read.map(Some)
        .map_err(|error| Denial::invalid("BAD_SPIFFE_ID", error.to_string()).status())
}
