//! The trust bundle.

use clap::{Subcommand, ValueEnum};
use taskmint_wire::admin;

use crate::context::Context;
use crate::exit::Failure;

/// `taskmint bundle`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the trust bundle.
    Show {
        /// In which form.
        #[arg(long, value_enum, default_value_t)]
        format: Form,
    },
}

/// Forms of a bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// SPIFFE JSON: X.509 and JWT authorities.
    #[default]
    Spiffe,
    /// X.509 authorities as PEM.
    Pem,
}

impl Command {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let Self::Show { format } = self;
        let format = match format {
            Form::Spiffe => "spiffe",
            Form::Pem => "pem",
        };
        let request = admin::GetBundleRequest {
            format: format.to_owned(),
        };
        let bundle = context
            .admin()
            .await?
            .get_bundle(request)
            .await?
            .into_inner();
        // The bundle is a document of its own, whatever the output format is.
        context.out.bytes(&bundle.data)?;
        if bundle.data.ends_with(b"\n") {
            Ok(())
        } else {
            context.out.text("\n")
        }
    }
}
