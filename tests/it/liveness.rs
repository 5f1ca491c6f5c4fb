//! Very many holders on one node (contract line 7): each death is an event, and nobody looks for it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::time::Duration;

use futures::StreamExt as _;

use crate::processes::{Domain, Process, SOON};

const HOLDERS: usize = 1_000;

/// Each so many dies.
const NTH: usize = 20;

/// A descriptor for each holder, another for who began the task, and what an agent needs itself.
const FILES: u64 = 4 * HOLDERS as u64;

/// How long an agent is looked at while nothing happens.
const WINDOW: Duration = Duration::from_secs(2);

/// What an idle agent may do in it, however many it holds: it renews its lease, and heads come.
const WAKEUPS: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_holders_cost_an_idle_agent_nothing_and_a_death_ends_its_own_task_alone() {
    if files() < FILES {
        // Past the capture of the harness, so that it is seen and counted.
        let why = b"skipped: a_thousand_holders: too few files may be open here\n";
        return std::io::stderr().write_all(why).unwrap();
    }
    let rates = "[rate_limits.per_caller]\nper_second = 100000\nburst = 100000";
    let mut domain = Domain::start(rates).await;
    let limits = "[limits.per_caller]\nper_second = 100000\nburst = 100000";
    let node = domain.node("n1", limits).await;
    let mut holders: Vec<_> = (0..HOLDERS).map(|_| Process::sleeping()).collect();
    node.begin(&holders[0]).await;
    let rest = futures::stream::iter(&holders[1..]).map(|holder| node.begin(holder));
    let begun: Vec<_> = rest.buffered(16).collect().await;
    let mut live: BTreeSet<_> = domain.live().await.into_iter().collect();
    assert_eq!(live.len(), HOLDERS);

    let idle = async {
        loop {
            let wakeups = wakeups_in_a_window(node.agent.pid()).await;
            if wakeups <= WAKEUPS {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, idle)
        .await
        .expect("it is never idle");

    for (holder, task) in holders[1..].iter_mut().zip(&begun).step_by(NTH) {
        holder.kill();
        assert!(live.remove(&task.id));
    }
    for task in begun.iter().step_by(NTH) {
        assert_eq!(domain.ended(&task.id).await.cause, "holder_died");
    }
    let left: BTreeSet<_> = domain.live().await.into_iter().collect();
    assert_eq!(left, live);
}

/// How many files an agent may have open, which raises its limit as far as it can.
fn files() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let hard = line.unwrap().split_whitespace().nth(4).unwrap();
    hard.parse().unwrap_or(u64::MAX)
}

/// How often threads of a process were woken while nothing was asked of it.
async fn wakeups_in_a_window(pid: u32) -> u64 {
    let before = wakeups(pid);
    tokio::time::sleep(WINDOW).await;
    wakeups(pid) - before
}

/// How often its threads have waited: a thread that is woken waits again.
fn wakeups(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let count = |status: String| -> u64 {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse().unwrap()
    };
    let statuses = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")));
    statuses.map(|status| count(status.unwrap())).sum()
}
