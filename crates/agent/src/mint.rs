//! SVIDs and tokens from the server, many in one call.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use taskmint_model::{TaskId, Timestamp};
use taskmint_wire::{Denied, node};
use tonic::{Code, Status};

use crate::batch::Batcher;
use crate::metrics::Metrics;
use crate::server::Server;

/// Asks the server for credentials.
pub(crate) struct Minter {
    x509: Batcher<(TaskId, Vec<u8>), Minted<Vec<u8>>>,
    jwt: Batcher<(TaskId, Vec<String>), Minted<String>>,
}

/// A credential and when it stops counting.
pub(crate) struct Minted<T> {
    pub(crate) credential: T,
    pub(crate) expires_at: Timestamp,
}

impl Minter {
    /// A minter, and the work behind it.
    pub(crate) fn new(
        server: Arc<Server>,
        metrics: Arc<Metrics>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (of_x509, of_jwt) = (
            (Arc::clone(&server), Arc::clone(&metrics)),
            (server, metrics),
        );
        let (x509, x509_work) = Batcher::new(move |items| {
            let (server, metrics) = of_x509.clone();
            mint_x509(server, metrics, items).boxed()
        });
        let (jwt, jwt_work) = Batcher::new(move |items| {
            let (server, metrics) = of_jwt.clone();
            mint_jwt(server, metrics, items).boxed()
        });
        let work = async move {
            tokio::join!(x509_work, jwt_work);
        };
        (Self { x509, jwt }, work)
    }

    /// An X.509-SVID of a task over a public key (SPKI DER).
    pub(crate) async fn x509(
        &self,
        task: TaskId,
        spki: Vec<u8>,
    ) -> Result<Minted<Vec<u8>>, Status> {
        self.x509.ask((task, spki)).await
    }

    /// A JWT-SVID of a task for an audience.
    pub(crate) async fn jwt(
        &self,
        task: TaskId,
        audience: Vec<String>,
    ) -> Result<Minted<String>, Status> {
        self.jwt.ask((task, audience)).await
    }
}

type Results<T> = Result<Vec<Result<Minted<T>, Status>>, Status>;

async fn mint_x509(
    server: Arc<Server>,
    metrics: Arc<Metrics>,
    items: Vec<(TaskId, Vec<u8>)>,
) -> Results<Vec<u8>> {
    let items = items.into_iter().map(|(task, spki)| {
        let task_id = task.to_string();
        node::mint_x509_request::Item { task_id, spki }
    });
    let request = node::MintX509Request {
        items: items.collect(),
    };
    let answer = server
        .call(|mut nodes| async move { nodes.mint_x509(request).await })
        .await?;
    metrics.minted(
        "x509",
        count(&answer.results, |result| result.refusal.is_none()),
    );
    let results = answer
        .results
        .into_iter()
        .map(|result| match result.refusal {
            Some(refusal) => Err(refused(refusal)),
            None => Ok(Minted {
                credential: result.certificate,
                expires_at: Timestamp::from_millis(result.expires_at_ms),
            }),
        });
    Ok(results.collect())
}

async fn mint_jwt(
    server: Arc<Server>,
    metrics: Arc<Metrics>,
    items: Vec<(TaskId, Vec<String>)>,
) -> Results<String> {
    let items = items.into_iter().map(|(task, audience)| {
        let task_id = task.to_string();
        node::mint_jwt_request::Item { task_id, audience }
    });
    let request = node::MintJwtRequest {
        items: items.collect(),
    };
    let answer = server
        .call(|mut nodes| async move { nodes.mint_jwt(request).await })
        .await?;
    metrics.minted(
        "jwt",
        count(&answer.results, |result| result.refusal.is_none()),
    );
    let results = answer
        .results
        .into_iter()
        .map(|result| match result.refusal {
            Some(refusal) => Err(refused(refusal)),
            None => Ok(Minted {
                credential: result.token,
                expires_at: Timestamp::from_millis(result.expires_at_ms),
            }),
        });
    Ok(results.collect())
}

fn count<T>(results: &[T], good: impl Fn(&T) -> bool) -> u64 {
    results.iter().filter(|result| good(result)).count() as u64
}

/// A refusal inside a batch carries no code: its reason does.
fn refused(refusal: node::Refusal) -> Status {
    let code = match refusal.reason.as_str() {
        "NO_SUCH_TASK" => Code::NotFound,
        "BAD_KEY" | "BAD_AUDIENCE" | "BAD_FIELD" => Code::InvalidArgument,
        "TRY_AGAIN" | "STORE_FAILED" | "AUTHORITY_FAILED" => Code::Unavailable,
        "FAULT" | "AUTHORITY_REFUSED" => Code::Internal,
        "RATE_LIMITED" => Code::ResourceExhausted,
        _ => Code::PermissionDenied,
    };
    let mut denied = Denied::new(code, refusal.reason, refusal.message).fix(refusal.fix);
    denied.id = refusal.denial_id.parse().ok();
    let wait = Duration::from_millis(refusal.retry_after_ms);
    denied.retry_after = (!wait.is_zero()).then_some(wait);
    denied.into()
}
