//! The unmodified Rust clients `spiffe` and `spiffe-rustls` against a running Taskmint.
//!
//! `client check` goes through the Workload API, `client serve` and `client call PORT` speak mTLS
//! with a client of another language. Prints `ok NAME` or `FAIL NAME: why` for each step.

mod check;
mod tls;

use anyhow::{Context, Result, bail};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["check"] => check::all().await,
        ["serve"] => tls::serve().await,
        ["call", port] => tls::call(port.parse().context("the port")?).await,
        _ => bail!("usage: client check | serve | call PORT"),
    }
}
