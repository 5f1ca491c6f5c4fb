//! What every command has: flags that all of them know, sockets, and where to print.

use std::path::Path;

use clap::Args;
use taskmint_client::{Admin, Endpoint, Tasks, WorkloadApi, connect};
use taskmint_model::{Clock, Entropy, SystemClock, SystemEntropy, Timestamp};

use crate::exit::Failure;
use crate::output::{Format, Output};

/// Largest answer that is taken.
const MAX_MESSAGE: usize = 64 << 20;

/// Where the admin socket may be if nobody says: for all, and where the shipped unit has it.
const ADMIN: [&str; 3] = [
    "/run/taskmint/admin.sock",
    "/run/taskmint-server/admin.sock",
    "/var/lib/taskmint-server/admin.sock",
];
const TASK: &str = "/run/taskmint/task.sock";
const WORKLOAD: &str = "/run/taskmint/workload.sock";
const REVOCATION: &str = "/run/taskmint/revocation.sock";

/// Flags of every command.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// How to print.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub output: Format,
    /// The server's admin socket.
    #[arg(
        long,
        global = true,
        value_name = "SOCKET",
        env = "TASKMINT_ADMIN_SOCKET"
    )]
    #[arg(hide_env_values = true, help_heading = "Sockets")]
    pub admin_socket: Option<String>,
    /// The agent's task socket.
    #[arg(
        long,
        global = true,
        value_name = "SOCKET",
        env = "TASKMINT_TASK_SOCKET"
    )]
    #[arg(hide_env_values = true, help_heading = "Sockets")]
    pub task_socket: Option<String>,
    /// The agent's Workload API.
    #[arg(
        long,
        global = true,
        value_name = "SOCKET",
        env = "SPIFFE_ENDPOINT_SOCKET"
    )]
    #[arg(hide_env_values = true, help_heading = "Sockets")]
    pub workload_socket: Option<String>,
    /// The agent's relay of the revocation log.
    #[arg(
        long,
        global = true,
        value_name = "SOCKET",
        env = "TASKMINT_REVOCATION_SOCKET"
    )]
    #[arg(hide_env_values = true, help_heading = "Sockets")]
    pub revocation_socket: Option<String>,
}

/// What every command has.
pub struct Context {
    /// Flags of every command.
    pub global: Global,
    /// Where to print.
    pub out: Output,
}

impl Global {
    /// Where the admin socket is.
    ///
    /// # Errors
    /// What was given is no socket.
    pub fn admin(&self) -> Result<Endpoint, Failure> {
        let found = ADMIN.iter().find(|path| Path::new(path).exists());
        endpoint(
            self.admin_socket.as_deref(),
            found.unwrap_or(&ADMIN_DEFAULT),
        )
    }

    /// Where the task socket is.
    ///
    /// # Errors
    /// What was given is no socket.
    pub fn task(&self) -> Result<Endpoint, Failure> {
        endpoint(self.task_socket.as_deref(), TASK)
    }

    /// Where the Workload API is.
    ///
    /// # Errors
    /// What was given is no socket.
    pub fn workload(&self) -> Result<Endpoint, Failure> {
        endpoint(self.workload_socket.as_deref(), WORKLOAD)
    }

    /// Where the relay of the revocation log is.
    ///
    /// # Errors
    /// What was given is no socket.
    pub fn revocation(&self) -> Result<Endpoint, Failure> {
        endpoint(self.revocation_socket.as_deref(), REVOCATION)
    }

    /// Whether tasks are asked of the server: there is an admin socket, and no task socket.
    pub(crate) fn only_admin(&self) -> bool {
        let there = |named: &Option<String>, paths: &[&str]| {
            named.as_ref().is_some_and(|text| !text.is_empty())
                || paths.iter().any(|path| Path::new(path).exists())
        };
        !there(&self.task_socket, &[TASK]) && there(&self.admin_socket, &ADMIN)
    }
}

/// Used, and so named in the error, if no admin socket is anywhere.
const ADMIN_DEFAULT: &str = "/run/taskmint/admin.sock";

impl Context {
    /// Prints to standard output.
    pub fn new(global: Global) -> Self {
        let out = Output::stdout(global.output);
        Self { global, out }
    }

    /// The server's administration.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn admin(&self) -> Result<Admin, Failure> {
        let channel = connect(&self.global.admin()?).await?;
        Ok(Admin::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    /// The agent's tasks.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn tasks(&self) -> Result<Tasks, Failure> {
        let channel = connect(&self.global.task()?).await?;
        Ok(Tasks::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    /// The agent's Workload API.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn workload(&self) -> Result<WorkloadApi, Failure> {
        Ok(WorkloadApi::connect(&self.global.workload()?).await?)
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        SystemClock.now()
    }
}

/// Random octets.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let entropy: &dyn Entropy = &SystemEntropy;
    entropy.array()
}

/// An id for a call that changes something.
pub(crate) fn request_id() -> Vec<u8> {
    random::<16>().to_vec()
}

/// A SPIFFE ID as people write it: whole, or its path alone below the server's trust domain.
///
/// # Errors
/// When the server must be asked and gives no answer.
pub(crate) async fn spiffe_id(admin: &mut Admin, text: String) -> Result<String, Failure> {
    if !text.starts_with('/') {
        return Ok(text);
    }
    let status = admin
        .get_status(taskmint_wire::admin::GetStatusRequest {})
        .await?
        .into_inner();
    Ok(format!("spiffe://{}{text}", status.trust_domain))
}

fn endpoint(given: Option<&str>, default: &str) -> Result<Endpoint, Failure> {
    let text = given.filter(|text| !text.is_empty()).unwrap_or(default);
    Endpoint::from_socket(text).map_err(|error| Failure::usage(error.to_string()))
}
