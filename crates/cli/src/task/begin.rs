//! Begin and delegate.
//!
//! A task that begins here is bound to this very process, so it lives as long as the command:
//! `taskmint run` is for commands that should have one.

use std::time::Duration;

use clap::{Args, ValueEnum};
use taskmint_model::millis;
use taskmint_wire::{admin, task};
use tokio::signal::unix::{SignalKind, signal};
use tonic::Streaming;

use super::record::record;
use super::{Api, Side, ended};
use crate::context::{Context, request_id, spiffe_id};
use crate::exit::Failure;
use crate::output::{Field, Record, note, parse_duration};

/// What a task is asked to be.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TaskArgs {
    /// What it is for; for whoever reads the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) purpose: String,
    /// On whose behalf; left out, the entry's owner.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) owner: String,
    /// Which identity, where several match.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) spiffe_id: String,
    /// From now until the deadline; left out, the server's default.
    #[arg(long, value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// From now until the latest that the deadline can be moved to; left out, all that is allowed.
    #[arg(long, value_parser = parse_duration)]
    pub(crate) limit: Option<Duration>,
    /// What it may do; may be repeated. Given a scope or an audience, it has only those given.
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// For whom it may fetch tokens; may be repeated.
    #[arg(long = "audience", value_name = "AUDIENCE")]
    pub(crate) audiences: Vec<String>,
    /// The most live children.
    #[arg(long, requires = "max_depth")]
    pub(crate) max_children: Option<u32>,
    /// How deep it may be delegated.
    #[arg(long, requires = "max_children")]
    pub(crate) max_depth: Option<u32>,
}

/// `taskmint task begin`.
#[derive(Args, Debug)]
pub struct Begin {
    #[command(flatten)]
    task: TaskArgs,
    #[command(flatten)]
    side: Side,
    /// Who sees it.
    #[arg(long, value_enum, default_value_t)]
    bind: Bind,
    /// Whose socket folder, for `--bind socket`; left out, the caller's.
    #[arg(long)]
    uid: Option<u32>,
    /// Of which entry (operators).
    #[arg(long, default_value = "", hide_default_value = true)]
    entry: String,
    /// Which node will hold it (operators): its SPIFFE ID, or the path alone.
    #[arg(long, default_value = "", hide_default_value = true)]
    node: String,
    /// Below which task (operators).
    #[arg(long, default_value = "", hide_default_value = true)]
    parent: String,
}

/// `taskmint task delegate`.
#[derive(Args, Debug)]
pub struct Delegate {
    /// Below which task; left out, the nearest that this process is in.
    #[arg(long, default_value = "", hide_default_value = true)]
    parent: String,
    #[command(flatten)]
    task: TaskArgs,
}

/// Who sees a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Bind {
    /// The process that it is bound to.
    #[default]
    Process,
    /// That process and its descendants.
    Tree,
    /// Whoever may use the task's own sockets.
    Socket,
}

impl TaskArgs {
    /// The request; who it is bound to comes from elsewhere.
    pub(crate) fn request(self) -> task::BeginRequest {
        let Self {
            scopes, audiences, ..
        } = self;
        let given = !scopes.is_empty() || !audiences.is_empty();
        let limits = self.max_children.zip(self.max_depth);
        task::BeginRequest {
            request_id: request_id(),
            spiffe_id: self.spiffe_id,
            purpose: self.purpose,
            owner: self.owner,
            authority: given.then_some(task::Authority { scopes, audiences }),
            ttl_ms: self.ttl.map_or(0, millis),
            limit_ms: self.limit.map_or(0, millis),
            limits: limits.map(|(max_children, max_depth)| task::Delegation {
                max_children,
                max_depth,
            }),
            ..Default::default()
        }
    }
}

impl Begin {
    pub(super) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let api = self.side.api(context).await?;
        let of_operator = [&self.entry, &self.node, &self.parent];
        let mut request = self.task.request();
        match api {
            Api::Operator(mut admin) => {
                if self.entry.is_empty() {
                    return Err(Failure::usage("an operator begins a task of an `--entry`"));
                }
                request.binding = match self.bind {
                    Bind::Process | Bind::Tree => task::Binding::None.into(),
                    Bind::Socket => task::Binding::Socket.into(),
                };
                request.uid = self.uid.unwrap_or(0);
                let node_id = spiffe_id(&mut admin, self.node).await?;
                let request = admin::BeginTaskRequest {
                    entry_id: self.entry,
                    node_id,
                    task: Some(request),
                    parent_id: self.parent,
                };
                let begun = admin.begin_task(request).await?.into_inner();
                context.out.one(&record(&begun.task.unwrap_or_default()))
            }
            Api::Holder(mut tasks) => {
                if of_operator.iter().any(|text| !text.is_empty()) {
                    let why = "`--entry`, `--node` and `--parent` are for operators: add `--admin`, or delegate";
                    return Err(Failure::usage(why));
                }
                let binding = match self.bind {
                    Bind::Process => task::Binding::Process,
                    Bind::Tree => task::Binding::Tree,
                    Bind::Socket => task::Binding::Socket,
                };
                request.binding = binding.into();
                // Who may use the socket; nothing else of a task is a user's.
                let own = || nix::unistd::getuid().as_raw();
                request.uid = match self.bind {
                    Bind::Socket => self.uid.unwrap_or_else(own),
                    Bind::Process | Bind::Tree => self.uid.unwrap_or(0),
                };
                let begun = tasks.begin(request).await?.into_inner();
                hold(context, Api::Holder(tasks), begun).await
            }
        }
    }
}

impl Delegate {
    pub(super) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut tasks = context.tasks().await?;
        let task = Some(self.task.request());
        let request = task::DelegateRequest {
            parent_id: self.parent,
            task,
        };
        let begun = tasks.delegate(request).await?.into_inner();
        hold(context, Api::Holder(tasks), begun).await
    }
}

/// The task is bound to this process: stays until interrupted, then completes it. Stays no longer
/// than the task.
async fn hold(
    context: &mut Context,
    mut api: Api,
    begun: task::BeginResponse,
) -> Result<(), Failure> {
    // Before anybody learns of the task: from then on it may be ended.
    let changes = api.watch(admin::WatchTasksRequest::default()).await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(anyhow::Error::from)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(anyhow::Error::from)?;
    context.out.one(&begun_record(&begun))?;
    note("the task lives as long as this command; interrupt it to complete the task");
    let task_id = begun.task.map(|task| task.id).unwrap_or_default();
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        ending = ending(changes, &task_id) => {
            let message = format!("the task was ended ({}) by {}", ending.cause, ending.by);
            return Err(Failure::Refused { reason: "TASK_ENDED".to_owned(), message });
        }
    }
    let request = task::EndRequest {
        request_id: request_id(),
        task_id,
        reason: String::new(),
        wait: false,
    };
    let response = api.end(super::End::Complete, request).await?;
    context.out.one(&ended(&response))
}

/// Waits until somebody else ends the task; for ever where that can't be known any more.
async fn ending(mut changes: Streaming<task::TaskResponse>, task_id: &str) -> task::Ending {
    while let Ok(Some(change)) = changes.message().await {
        let task = change.task.filter(|task| task.id == task_id);
        if let Some(ending) = task.and_then(|task| task.ending) {
            return ending;
        }
    }
    std::future::pending().await
}

fn begun_record(begun: &task::BeginResponse) -> Record {
    Record::new()
        .with("task", Field::Record(begun.task.as_ref().map(record)))
        .with("svid", Field::Record(begun.svid.as_ref().map(svid_record)))
        .text("socket_dir", &begun.socket_dir)
}

/// An SVID without its key.
fn svid_record(svid: &task::X509svid) -> Record {
    Record::new()
        .text("spiffe_id", &svid.spiffe_id)
        .text("task_id", &svid.task_id)
        .instant("expires_at", svid.expires_at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_begin_asks_for_what_was_said() {
        let args = TaskArgs {
            purpose: "count".to_owned(),
            ttl: Some(Duration::from_secs(60)),
            scopes: vec!["a".to_owned()],
            max_children: Some(2),
            max_depth: Some(1),
            ..Default::default()
        };
        let request = args.request();
        assert_eq!(request.request_id.len(), 16);
        assert_eq!((request.ttl_ms, request.limit_ms), (60_000, 0));
        let authority = request.authority.unwrap();
        assert_eq!((authority.scopes.len(), authority.audiences.len()), (1, 0));
        assert_eq!(request.limits.unwrap().max_depth, 1);
    }

    #[test]
    fn without_scopes_and_audiences_the_entry_decides() {
        assert_eq!(TaskArgs::default().request().authority, None);
        assert_eq!(TaskArgs::default().request().limits, None);
    }

    #[test]
    fn a_begun_task_is_shown_without_its_key() {
        let svid = task::X509svid {
            spiffe_id: "spiffe://e.org/a".to_owned(),
            private_key: vec![1, 2, 3],
            ..Default::default()
        };
        let begun = task::BeginResponse {
            svid: Some(svid),
            ..Default::default()
        };
        let text = begun_record(&begun).json().to_string();
        assert!(
            text.contains("spiffe://e.org/a") && !text.contains("key"),
            "{text}"
        );
    }
}
