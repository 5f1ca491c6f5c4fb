//! The Workload API, step by step.

use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::{Stream, StreamExt};
use spiffe::x509_source::X509SourceError;
use spiffe::{BundleSource, JwtSvid, TrustDomain, WorkloadApiClient, WorkloadApiError};
use spiffe::{X509Context, X509Source};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

const AUDIENCE: &str = "interop";
const SOON: Duration = Duration::from_secs(30);

type Contexts = Pin<Box<dyn Stream<Item = Result<X509Context, WorkloadApiError>> + Send>>;

/// Goes through every step; stops at the first that fails, because the next ones build on it.
pub(crate) async fn all() -> Result<()> {
    let client = WorkloadApiClient::connect_env().await?;
    step("x509_context", x509_context(&client).await)?;
    let token = step("jwt", jwt(&client).await)?;
    step("bundles", bundles(&client).await)?;
    let source = step("x509_source", x509_source().await)?;
    let mut contexts: Contexts = Box::pin(client.stream_x509_contexts().await?);
    step("rotation", rotation(&mut contexts).await)?;
    step("withdrawal", withdrawal(&mut contexts, &source, &token).await)?;
    step("no_revival", no_revival(&client, &source, &token).await)
}

fn step<T>(name: &str, result: Result<T>) -> Result<T> {
    match &result {
        Ok(_) => println!("ok {name}"),
        Err(error) => println!("FAIL {name}: {error:#}"),
    }
    result
}

async fn x509_context(client: &WorkloadApiClient) -> Result<()> {
    let start = Instant::now();
    let context = client.fetch_x509_context().await?;
    ensure!(start.elapsed() < Duration::from_secs(2), "first answer after {:?}", start.elapsed());
    let svid = context.default_svid().context("an SVID")?;
    let own = svid.spiffe_id().trust_domain();
    let bundle = context.bundle_set().get(own).context("the own bundle")?;
    ensure!(!bundle.authorities().is_empty(), "an empty bundle");
    Ok(())
}

async fn jwt(client: &WorkloadApiClient) -> Result<String> {
    let own = client.fetch_x509_svid().await?.spiffe_id().clone();
    let svid = client.fetch_jwt_svid([AUDIENCE], Some(&own)).await?;
    ensure!(*svid.spiffe_id() == own, "the token is for {}", svid.spiffe_id());
    let bundles = client.fetch_jwt_bundles().await?;
    let judged = JwtSvid::parse_and_validate(svid.token(), &bundles, &[AUDIENCE])?;
    ensure!(*judged.spiffe_id() == own, "judged as {}", judged.spiffe_id());
    ensure!(
        JwtSvid::parse_and_validate(svid.token(), &bundles, &["another"]).is_err(),
        "the token is taken for another audience"
    );
    let judged = client.validate_jwt_token(AUDIENCE, svid.token()).await?;
    ensure!(*judged.spiffe_id() == own, "the server judged {}", judged.spiffe_id());
    ensure!(
        client.validate_jwt_token("another", svid.token()).await.is_err(),
        "the server takes the token for another audience"
    );
    Ok(svid.token().to_owned())
}

async fn bundles(client: &WorkloadApiClient) -> Result<()> {
    let own: TrustDomain = client.fetch_x509_svid().await?.spiffe_id().trust_domain().clone();
    let x509 = client.fetch_x509_bundles().await?;
    ensure!(x509.get(&own).is_some_and(|b| !b.authorities().is_empty()), "no X.509 authority");
    let jwt = client.fetch_jwt_bundles().await?;
    ensure!(jwt.get(&own).is_some_and(|b| b.jwt_authorities().count() > 0), "no JWT authority");
    Ok(())
}

async fn x509_source() -> Result<X509Source> {
    let source = timeout(SOON, X509Source::new()).await??;
    let own = source.svid()?.spiffe_id().trust_domain().clone();
    ensure!(source.bundle_for_trust_domain(&own)?.is_some(), "the source has no own bundle");
    Ok(source)
}

/// A new CA is prepared and activated: the open stream brings a bundle that has it.
async fn rotation(contexts: &mut Contexts) -> Result<()> {
    let before = authorities(&next(contexts).await?)?;
    operator(&["rotate"]).await?;
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        let after = authorities(&next(contexts).await?)?;
        if after > before {
            return Ok(());
        }
    }
    bail!("the stream brought no bundle with the new authority")
}

fn authorities(context: &X509Context) -> Result<usize> {
    let svid = context.default_svid().context("an SVID")?;
    let bundle = context.bundle_set().get(svid.spiffe_id().trust_domain()).context("a bundle")?;
    Ok(bundle.authorities().len())
}

async fn next(contexts: &mut Contexts) -> Result<X509Context> {
    let next = timeout(SOON, contexts.next()).await.context("nothing came on the stream")?;
    Ok(next.context("the stream ended")??)
}

/// The task is revoked: the open stream ends with PermissionDenied, and the source lets go.
async fn withdrawal(contexts: &mut Contexts, source: &X509Source, token: &str) -> Result<()> {
    operator(&["revoke", &task_of(token)?]).await?;
    loop {
        match timeout(SOON, contexts.next()).await.context("the stream stayed open")? {
            Some(Ok(_)) => {}
            Some(Err(error)) if denied(&error) => break,
            other => bail!("the stream ended with {other:?}"),
        }
    }
    let deadline = Instant::now() + SOON;
    loop {
        match source.svid() {
            Err(X509SourceError::Withdrawn(_)) => return Ok(()),
            other if Instant::now() > deadline => bail!("the source still says {other:?}"),
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The client's own retries, and ours, bring nothing back.
async fn no_revival(client: &WorkloadApiClient, source: &X509Source, token: &str) -> Result<()> {
    let patience = std::env::var("INTEROP_PATIENCE").unwrap_or_else(|_| "20".to_owned());
    let deadline = Instant::now() + Duration::from_secs(patience.parse()?);
    while Instant::now() < deadline {
        refused("an X.509-SVID", client.fetch_x509_svid().await)?;
        refused("a JWT-SVID", client.fetch_jwt_svid([AUDIENCE], None).await)?;
        ensure!(client.validate_jwt_token(AUDIENCE, token).await.is_err(), "the token is valid");
        ensure!(source.svid().is_err(), "the source has an SVID again");
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

fn refused<T>(what: &str, result: Result<T, WorkloadApiError>) -> Result<()> {
    match result {
        Ok(_) => bail!("{what} was issued again"),
        Err(error) if denied(&error) => Ok(()),
        Err(error) => Err(anyhow!("{what} was refused with {error:?}")),
    }
}

fn denied(error: &WorkloadApiError) -> bool {
    matches!(error, WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_))
}

/// The task that a token names in its own claim.
fn task_of(token: &str) -> Result<String> {
    let payload = token.split('.').nth(1).context("a payload")?;
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    let task = claims["https://taskmint.dev/task"]["task"].as_str();
    Ok(task.context("the token names no task")?.to_owned())
}

async fn operator(arguments: &[&str]) -> Result<()> {
    let operator = std::env::var("INTEROP_OPERATOR").context("INTEROP_OPERATOR")?;
    let status = timeout(SOON, Command::new(operator).args(arguments).status()).await??;
    ensure!(status.success(), "operator {arguments:?} failed: {status}");
    Ok(())
}
