//! An agent at work: it calls a service under its task, says that the task is done, and then goes
//! on with the certificate and key that it still has, as a thief of them would.
//!
//! It succeeds if it then gets nothing: a new connection is refused, and the open one is closed.
//!
//!     quickstart-client <address of the service> <SPIFFE ID of the service>

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use taskmint_client::{CallError, Endpoint, Tasks, WorkloadApi, connect};
use taskmint_id::SpiffeId;
use taskmint_model::{Clock as _, SystemClock, TaskId};
use taskmint_verifier::tls::{self, Identity, authorize};
use taskmint_verifier::{Trust, verify_x509};
use taskmint_wire::task;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Requests before the task is done.
const WORK: u32 = 20;

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(50);

/// Being refused takes milliseconds; after this, something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

type Connection = BufStream<TlsStream<TcpStream>>;

#[derive(Clone)]
struct Service {
    address: String,
    connector: TlsConnector,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(address), Some(id)) = (args.next(), args.next()) else {
        anyhow::bail!("usage: quickstart-client <address> <SPIFFE ID>");
    };
    let (service, task_id) = identify(address, SpiffeId::parse(&id)?).await?;
    let mut tasks = Tasks::new(connect(&Endpoint::from_env("TASKMINT_TASK_SOCKET")?).await?);

    let mut open = service.connect().await?;
    for number in 1..=WORK {
        let answer = ask(&mut open, number)
            .await
            .context("the open connection")?;
        if number == 1 || number == WORK {
            println!("request {number:>3}      {answer}");
        }
        tokio::time::sleep(PAUSE).await;
    }

    println!("complete         the task is done; certificate and key are still here");
    let completed = Instant::now();
    let watched = tokio::spawn(until_closed(open, completed));
    let request = task::EndRequest {
        task_id: task_id.to_string(),
        ..Default::default()
    };
    tasks.complete(request).await.map_err(CallError::from)?;
    println!(
        "completed        after {}, durably",
        ms(completed.elapsed())
    );

    let refused = tokio::time::timeout(PATIENCE, until_refused(&service, completed))
        .await
        .context("new connections are still accepted")?;
    let closed = tokio::time::timeout(PATIENCE, watched)
        .await
        .context("the open connection is still open")??;
    println!("{refused}");
    println!("{closed}");
    Ok(())
}

/// Fetches the SVID of the one task that this process sees.
async fn identify(address: String, service: SpiffeId) -> anyhow::Result<(Service, TaskId)> {
    let api = WorkloadApi::connect(&Endpoint::from_env("SPIFFE_ENDPOINT_SOCKET")?).await?;
    let context = api.x509_context().await?;
    let svid = context.svids.first().context("no identity")?;
    let own = verify_x509(&svid.chain, &context.bundles, SystemClock.now())?;
    let task = own.task().context("the certificate names no task")?;
    println!("SPIFFE ID        {}", own.spiffe_id);
    println!("task             {task}");
    println!("certificate      expires at {}", own.not_after);
    let identity = Identity::new();
    identity.set(svid.chain.clone(), &svid.key)?;
    let (trust, clock) = (Trust::new(context.bundles), Arc::new(SystemClock));
    let config = tls::client_config(
        Some(&identity),
        &trust,
        clock,
        authorize::ids([service]),
        None,
    )?;
    Ok((
        Service {
            address,
            connector: TlsConnector::from(Arc::new(config)),
        },
        task,
    ))
}

impl Service {
    async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        // The name is not compared: the SPIFFE ID is.
        let stream = self
            .connector
            .connect("localhost".try_into()?, stream)
            .await?;
        Ok(BufStream::new(stream))
    }
}

/// One line there, one line back.
async fn ask(connection: &mut Connection, number: u32) -> anyhow::Result<String> {
    connection
        .write_all(format!("answer {number}\n").as_bytes())
        .await?;
    connection.flush().await?;
    let mut line = String::new();
    if connection.read_line(&mut line).await? == 0 {
        anyhow::bail!("the service closed it");
    }
    Ok(line.trim_end().to_owned())
}

/// Requests on the open connection, until there is none; says how it ended.
async fn until_closed(mut open: Connection, since: Instant) -> String {
    let mut number = WORK;
    loop {
        number += 1;
        if let Err(error) = ask(&mut open, number).await {
            return format!(
                "open connection  closed after {}: {error:#}",
                ms(since.elapsed())
            );
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Requests on new connections, until one is refused; says how, and what came before.
async fn until_refused(service: &Service, since: Instant) -> String {
    let (mut answered, mut cut) = (0, 0);
    loop {
        let asked = async { ask(&mut service.connect().await?, 0).await };
        match asked.await {
            Ok(_) => answered += 1,
            // An alert is all that a refused peer is told; the service knows more.
            Err(error) if is_alert(&error) => {
                let after = ms(since.elapsed());
                return format!(
                    "new connection   refused after {after}: {error:#} ({answered} answered and \
                     {cut} cut off before)"
                );
            }
            // Its handshake was over when the end came.
            Err(_) => cut += 1,
        }
    }
}

/// Whether the other side spoke its refusal, and did not just go away.
fn is_alert(error: &anyhow::Error) -> bool {
    let of_tls = |cause: &std::io::Error| {
        let inner = cause.get_ref().and_then(|inner| inner.downcast_ref());
        matches!(inner, Some(tokio_rustls::rustls::Error::AlertReceived(_)))
    };
    error.downcast_ref().is_some_and(of_tls)
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
