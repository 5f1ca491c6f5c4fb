//! mTLS with a peer that has the same SPIFFE ID, by `spiffe-rustls`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use spiffe::X509Source;
use spiffe_rustls::{TerminalSourcePolicy, authorizer, mtls_client, mtls_server};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const PATIENCE: Duration = Duration::from_secs(60);

/// Prints the port, answers one caller, and ends.
pub(crate) async fn serve() -> Result<()> {
    let source = X509Source::new().await?;
    let own = source.svid()?.spiffe_id().to_string();
    let config = mtls_server(source)
        .authorize(authorizer::exact([own.as_str()])?)
        .terminal_source_policy(TerminalSourcePolicy::FailClosed)
        .build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("port {}", listener.local_addr()?.port());
    let (stream, _) = timeout(PATIENCE, listener.accept()).await??;
    let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
    let mut line = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut line)).await??;
    ensure!(&line == b"ping\n", "the caller said {line:?}");
    stream.write_all(format!("pong {own}\n").as_bytes()).await?;
    stream.shutdown().await?;
    println!("ok tls_server");
    Ok(())
}

/// Calls a server of another language.
pub(crate) async fn call(port: u16) -> Result<()> {
    let source = X509Source::new().await?;
    let own = source.svid()?.spiffe_id().to_string();
    let config = mtls_client(source)
        .authorize(authorizer::exact([own.as_str()])?)
        .terminal_source_policy(TerminalSourcePolicy::FailClosed)
        .build()?;
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = rustls::pki_types::ServerName::try_from("localhost")?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"ping\n").await?;
    let mut answer = String::new();
    timeout(PATIENCE, BufReader::new(&mut stream).read_line(&mut answer)).await??;
    ensure!(answer.trim_end() == format!("pong {own}"), "the server said `{answer}`");
    println!("ok tls_client");
    Ok(())
}
