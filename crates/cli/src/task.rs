//! Tasks.
//!
//! A holder asks the agent, which shows what the calling process sees; an operator asks the
//! server. `--admin` says which; left out, it is the agent where there is one.

mod api;
mod begin;
mod receipt;
mod record;
mod tree;

use std::time::Duration;

use clap::{Args, Subcommand};
use taskmint_model::millis;
use taskmint_wire::{admin, task};

use crate::context::{Context, request_id};
use crate::exit::Failure;
use crate::output::{note, parse_duration};

use api::{Api, Filter};
pub(crate) use begin::TaskArgs;
use record::{COLUMNS, WATCHED};
pub(crate) use record::{ended, record};

/// `taskmint task`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Begin a task and hold it until interrupted; as an operator, begin one for a workload to come.
    Begin(begin::Begin),
    /// Begin a task below the one that this process is in, with no more than that one has.
    Delegate(begin::Delegate),
    /// List tasks that this process sees; with `--admin`, all.
    List(List),
    /// Show one task.
    Show(One),
    /// Show tasks below their roots.
    Tree(Tree),
    /// Move a task's deadline out, never past its limit.
    Extend(Extend),
    /// Withdraw everything of a task and of those below it, until resumed.
    Suspend(WithReason),
    /// Undo `suspend`.
    Resume(One),
    /// End a task: it is done.
    Complete(Ending),
    /// End a task: it failed.
    Fail(Ending),
    /// End a task: it is no longer wanted.
    Cancel(Ending),
    /// End a task as an operator.
    Revoke(Ending),
    /// Print tasks as they change, until interrupted.
    Watch(Watch),
}

/// Which side is asked.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Side {
    /// As an operator: ask the server.
    #[arg(long)]
    admin: bool,
}

/// One task.
#[derive(Args, Debug)]
pub struct One {
    /// Its id; left out, the only one that this process sees.
    task: Option<String>,
    #[command(flatten)]
    side: Side,
}

/// One task, and why.
#[derive(Args, Debug)]
pub struct WithReason {
    #[command(flatten)]
    one: One,
    /// Why; for the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

/// An end.
#[derive(Args, Debug)]
pub struct Ending {
    #[command(flatten)]
    of: WithReason,
    /// Wait until all verifiers that are waited for have heard of it.
    #[arg(long)]
    wait: bool,
    /// How long; 30 s unless said, 5 min at most.
    #[arg(long, requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

/// `taskmint task list`.
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    side: Side,
    /// Also those that have ended.
    #[arg(long)]
    ended: bool,
    /// Only with this SPIFFE ID.
    #[arg(long, default_value = "", hide_default_value = true)]
    spiffe_id: String,
    /// Only this root and what is below it.
    #[arg(long, default_value = "", hide_default_value = true)]
    root: String,
    /// Only on this node (operators).
    #[arg(long, default_value = "", hide_default_value = true)]
    node: String,
    /// Only of this entry (operators).
    #[arg(long, default_value = "", hide_default_value = true)]
    entry: String,
    /// Only of this owner (operators).
    #[arg(long, default_value = "", hide_default_value = true)]
    owner: String,
    /// Also those of nodes and servers (operators).
    #[arg(long)]
    all_kinds: bool,
    /// How many at most.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

/// `taskmint task tree`.
#[derive(Args, Debug)]
pub struct Tree {
    /// A root; left out, all.
    root: Option<String>,
    #[command(flatten)]
    side: Side,
    /// Also those that have ended.
    #[arg(long)]
    ended: bool,
}

/// `taskmint task extend`.
#[derive(Args, Debug)]
pub struct Extend {
    #[command(flatten)]
    one: One,
    /// From now until the new deadline.
    #[arg(long, value_parser = parse_duration)]
    ttl: Duration,
}

/// `taskmint task watch`.
#[derive(Args, Debug)]
pub struct Watch {
    #[command(flatten)]
    side: Side,
    /// Only this root and what is below it (operators).
    #[arg(long, default_value = "", hide_default_value = true)]
    root: String,
    /// Only with this SPIFFE ID (operators).
    #[arg(long, default_value = "", hide_default_value = true)]
    spiffe_id: String,
}

/// How a holder ends a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Complete,
    Fail,
    Cancel,
    Revoke,
}

impl Command {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Begin(begin) => begin.execute(context).await,
            Self::Delegate(delegate) => delegate.execute(context).await,
            Self::List(list) => list.execute(context).await,
            Self::Show(one) => {
                let (mut api, task_id) = one.find(context).await?;
                let task = api.get(task_id).await?;
                context.out.one(&record(&task))
            }
            Self::Tree(tree) => tree.execute(context).await,
            Self::Extend(Extend { one, ttl }) => {
                let (mut api, task_id) = one.find(context).await?;
                let ttl_ms = millis(ttl);
                let request = task::ExtendRequest {
                    request_id: request_id(),
                    task_id,
                    ttl_ms,
                };
                let task = api.extend(request).await?;
                context.out.one(&record(&task))
            }
            Self::Suspend(WithReason { one, reason }) => {
                let (mut api, task_id) = one.find(context).await?;
                let request = task::SuspendRequest {
                    request_id: request_id(),
                    task_id,
                    reason,
                };
                let task = api.suspend(request).await?;
                context.out.one(&record(&task))
            }
            Self::Resume(one) => {
                let (mut api, task_id) = one.find(context).await?;
                let request = task::ResumeRequest {
                    request_id: request_id(),
                    task_id,
                };
                let task = api.resume(request).await?;
                context.out.one(&record(&task))
            }
            Self::Complete(end) => end.execute(context, End::Complete).await,
            Self::Fail(end) => end.execute(context, End::Fail).await,
            Self::Cancel(end) => end.execute(context, End::Cancel).await,
            Self::Revoke(end) => end.execute(context, End::Revoke).await,
            Self::Watch(watch) => watch.execute(context).await,
        }
    }
}

impl Side {
    async fn api(self, context: &Context) -> Result<Api, Failure> {
        if self.admin || context.global.only_admin() {
            Ok(Api::Operator(context.admin().await?))
        } else {
            Ok(Api::Holder(context.tasks().await?))
        }
    }
}

impl One {
    /// Whom to ask, and for which task.
    async fn find(self, context: &Context) -> Result<(Api, String), Failure> {
        let mut api = self.side.api(context).await?;
        if let Some(task) = self.task {
            return Ok((api, task));
        }
        if matches!(api, Api::Operator(_)) {
            return Err(Failure::usage(
                "name the task: the server doesn't know which one is meant",
            ));
        }
        let filter = Filter {
            live_only: true,
            ..Filter::default()
        };
        let tasks = api.list(&filter, 2).await?;
        let mut explicit = tasks
            .into_iter()
            .filter(|task| task.kind() == task::Kind::Explicit);
        match (explicit.next(), explicit.next()) {
            (Some(task), None) => Ok((api, task.id)),
            (Some(_), Some(_)) => Err(Failure::usage(
                "this process sees several tasks: name one of `taskmint task list`",
            )),
            (None, _) => Err(Failure::NotFound("this process sees no task".to_owned())),
        }
    }
}

impl Ending {
    async fn execute(self, context: &mut Context, how: End) -> Result<(), Failure> {
        let WithReason { mut one, reason } = self.of;
        // A holder completes, fails or cancels; revoking is an operator's word.
        one.side.admin |= how == End::Revoke;
        let (mut api, task_id) = one.find(context).await?;
        let request = task::EndRequest {
            request_id: request_id(),
            task_id,
            reason,
            wait: self.wait,
        };
        let mut response = api.end(how, request).await?;
        if !self.wait {
            return context.out.one(&ended(&response));
        }
        let receipt = receipt::wait(&mut api, &response, self.timeout).await?;
        let judged = receipt::judge(&receipt);
        response.receipt = Some(receipt);
        context.out.one(&ended(&response))?;
        judged
    }
}

impl List {
    async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut api = self.side.api(context).await?;
        let filter = Filter {
            live_only: !self.ended,
            spiffe_id: self.spiffe_id,
            root_id: self.root,
            node_id: self.node,
            entry_id: self.entry,
            owner: self.owner,
            all_kinds: self.all_kinds,
        };
        let tasks = api.list(&filter, self.limit).await?;
        let records: Vec<_> = tasks.iter().map(record).collect();
        context.out.list(COLUMNS, &records)?;
        if records.is_empty() && matches!(api, Api::Holder(_)) && !context.out.is_json() {
            note("this process sees no task; an operator sees all with `--admin`");
        }
        Ok(())
    }
}

impl Tree {
    async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut api = self.side.api(context).await?;
        let root_id = self.root.unwrap_or_default();
        let filter = Filter {
            live_only: !self.ended,
            root_id,
            ..Filter::default()
        };
        let tasks = api.list(&filter, usize::MAX).await?;
        if context.out.is_json() {
            let roots: Vec<_> = tree::nested(&tasks);
            return context.out.list(COLUMNS, &roots);
        }
        context.out.text(&tree::draw(&tasks))
    }
}

impl Watch {
    async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut api = self.side.api(context).await?;
        let request = admin::WatchTasksRequest {
            root_id: self.root,
            spiffe_id: self.spiffe_id,
        };
        let mut changes = api.watch(request).await?;
        loop {
            let change = tokio::select! {
                change = changes.message() => change?,
                _ = tokio::signal::ctrl_c() => return Ok(()),
            };
            let Some(change) = change else { return Ok(()) };
            if let Some(task) = &change.task {
                context.out.next(WATCHED, &record(task))?;
            }
        }
    }
}
