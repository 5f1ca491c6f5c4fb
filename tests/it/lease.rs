//! Node leases (P12) with the real binaries: an agent that is stopped, killed or cut off, and a
//! server that is stopped.

use std::io::Write as _;
use std::time::Duration;

use nix::sys::signal::Signal;
use taskmint_model::{Clock as _, SystemClock};
use taskmint_verifier::watch::Watch;
use taskmint_wire::task;

use crate::processes::{Domain, Node, Process, is_refused, refusal};

/// Long for a process that merely has to wait for its turn.
const LEASE: Duration = Duration::from_secs(6);

const LINES: &str = "tasks.lease = \"6s\"";

/// A node that is going to be lost, and one that is not, with a verifier and a task of its own.
struct Stage {
    domain: Domain,
    lost: Node,
    kept: Node,
    watch: Watch,
    holder: Process,
    task: task::Task,
    other: task::Task,
}

impl Stage {
    async fn new() -> Self {
        let mut domain = Domain::start(LINES).await;
        let lost = domain.node("lost", "").await;
        Self::of(domain, lost).await
    }

    async fn of(mut domain: Domain, lost: Node) -> Self {
        let kept = domain.node("kept", "").await;
        let watch = kept.verifier().await;
        let holder = Process::sleeping();
        let (task, other) = (lost.begin(&holder).await, kept.begin(&holder).await);
        assert_eq!(refusal(&watch, &task), None);
        Self {
            domain,
            lost,
            kept,
            watch,
            holder,
            task,
            other,
        }
    }

    /// The lease lapses; only what was held on that node ends, by everybody's word.
    async fn loses_its_lease(&mut self) {
        let ending = self.domain.ended(&self.task.id).await;
        assert_eq!(ending.cause, "node_lost");
        is_refused(&self.watch, &self.task).await;
        assert_eq!(refusal(&self.watch, &self.other), None);
        assert_eq!(self.domain.live().await, [&*self.other.id]);
    }

    /// The node is back and works, its holder lives, and what ended has ended.
    async fn comes_back_without_it(mut self) {
        let fresh = self.lost.begin(&self.holder).await;
        assert_ne!(fresh.id, self.task.id);
        assert_eq!(self.lost.live().await, [&*fresh.id], "by the agent's word");
        let mut live = self.domain.live().await;
        live.retain(|id| *id != fresh.id);
        assert_eq!(live, [&*self.other.id], "by the server's word");
        let ending = self.domain.ended(&self.task.id).await;
        assert_eq!(ending.cause, "node_lost");
        assert_eq!(refusal(&self.watch, &self.task), Some("TASK_ENDED"));
        assert_eq!(self.kept.live().await, [&*self.other.id]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agents_tasks_end_with_its_lease_and_do_not_come_back_with_it() {
    let mut stage = Stage::new().await;
    stage.lost.agent.signal(Signal::SIGSTOP);
    stage.loses_its_lease().await;
    stage.lost.agent.signal(Signal::SIGCONT);
    stage.comes_back_without_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agents_tasks_end_with_its_lease_and_are_not_adopted_after_it() {
    let mut stage = Stage::new().await;
    stage.lost.agent.kill();
    stage.loses_its_lease().await;
    stage.lost.start_again();
    stage.comes_back_without_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_loses_its_tasks_with_its_lease_and_learns_so_when_it_is_back() {
    let mut domain = Domain::start(LINES).await;
    let Some(lost) = domain.node_in_network("lost").await else {
        // Past the capture of the harness, so that it is seen and counted.
        let why = b"skipped: a_node_that_is_cut_off: no network namespaces here\n";
        return std::io::stderr().write_all(why).unwrap();
    };
    let mut stage = Stage::of(domain, lost).await;
    stage.lost.link("down");
    stage.loses_its_lease().await;
    // An agent can't tell a dead server from a cut wire.
    assert_eq!(stage.lost.live().await, [&*stage.task.id]);
    stage.lost.link("up");
    stage.comes_back_without_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_for_longer_than_a_lease_ends_nothing_and_leases_begin_anew() {
    let mut stage = Stage::new().await;
    stage.domain.server.signal(Signal::SIGSTOP);
    stage.lost.is_ready(false).await;
    tokio::time::sleep(LEASE + LEASE / 4).await;
    assert_eq!(stage.lost.live().await, [&*stage.task.id]);
    // This one has no chance to renew before the server looks at its lease.
    stage.lost.agent.signal(Signal::SIGSTOP);
    let returned = SystemClock.now();
    stage.domain.server.signal(Signal::SIGCONT);
    stage.domain.server_is_ready().await;
    stage.kept.is_ready(true).await;
    // Its whole lease passes from here on, and then it counts.
    let ending = stage.domain.ended(&stage.task.id).await;
    assert_eq!(ending.cause, "node_lost");
    let ended = Duration::from_millis(ending.at_ms);
    let returned = Duration::from_millis(returned.millis());
    assert!(ended >= returned + LEASE, "{ended:?}, {returned:?}");
    assert_eq!(stage.domain.live().await, [&*stage.other.id]);
}
