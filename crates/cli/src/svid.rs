//! SVIDs: fetch, show, verify.

mod fetch;
pub(crate) mod pem;
mod read;
mod show;
mod verify;

use std::path::PathBuf;

use clap::Subcommand;

use crate::context::Context;
use crate::exit::Failure;

/// `taskmint svid`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch SVIDs from the Workload API, as any SPIFFE client does.
    #[command(subcommand)]
    Fetch(Fetch),
    /// Show what a certificate or token says, without verifying anything.
    Show {
        /// Certificates as PEM, or a token; `-` is standard input.
        file: PathBuf,
    },
    /// Verify a certificate or token as a service does.
    Verify(verify::Verify),
}

/// `taskmint svid fetch`.
#[derive(Debug, Subcommand)]
pub enum Fetch {
    /// X.509-SVIDs.
    X509 {
        /// A folder for `svid.N.pem`, `svid.N.key` (mode 0600) and `bundle.N.pem`, N from 0.
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
    },
    /// JWT-SVIDs.
    Jwt {
        /// Who will verify it; may be repeated.
        #[arg(long = "audience", value_name = "AUDIENCE", required = true)]
        audiences: Vec<String>,
        /// Which identity; left out, all.
        #[arg(long)]
        spiffe_id: Option<String>,
    },
}

impl Command {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Fetch(Fetch::X509 { write }) => fetch::x509(context, write).await,
            Self::Fetch(Fetch::Jwt {
                audiences,
                spiffe_id,
            }) => fetch::jwt(context, &audiences, spiffe_id).await,
            Self::Show { file } => {
                let record = show::record(&read::read(&file)?)?;
                context.out.one(&record)
            }
            Self::Verify(verify) => verify.execute(context).await,
        }
    }
}

#[cfg(test)]
mod tests;
