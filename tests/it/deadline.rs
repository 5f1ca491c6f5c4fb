//! Deadlines (P12, contract lines 1 and 7): a task that is past its `ttl` ends by itself, with
//! everything below it, and everybody hears so. Time is moved by hand.

use std::sync::Arc;
use std::time::Duration;

use taskmint_model::{Clock as _, SystemClock};
use taskmint_status::{BootTime, Cause, Change, Now, TaskBinding, WallTime};
use taskmint_testkit::ManualClock;
use taskmint_verifier::StatusCheck as _;
use taskmint_verifier::watch::{Clocks, Watch};
use taskmint_wire::{admin, node, task};

use crate::checkpoint::watching;
use crate::harness::World;
use crate::joined::SOON;
use crate::node::Node;
use crate::public::{Workload, joined};
use crate::restore::until;

const MINUTE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

/// No lease lapses here.
const LEASE: &str = "tasks.lease = \"1h\"";

/// A verifier's clocks that go with the server's.
struct ByHand(ManualClock);

impl Clocks for ByHand {
    fn now(&self) -> Now {
        let now = self.0.now().millis();
        Now {
            boot: BootTime(now),
            wall: WallTime(now),
        }
    }
}

/// A server that remembers, a node, and a verifier that has heard of everything.
struct Stage {
    world: World,
    clock: ManualClock,
    node: Node,
    watch: Watch,
}

impl Stage {
    async fn new() -> Self {
        // What goes by the wall clock must find nothing to be of the future.
        let clock = ManualClock::new(SystemClock.now() - 60 * MINUTE);
        let mut world = World::durable(LEASE, Arc::new(clock.clone())).await;
        let node = joined(&mut world).await;
        let watch = by_hand(&world, &node, &clock).await;
        Self {
            world,
            clock,
            node,
            watch,
        }
    }

    /// A task with this much time.
    async fn begin(&mut self, pid: u32, ttl: Duration) -> Workload {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap();
        Workload::begin_as(&mut self.node, pid, |ask| {
            ask.task.as_mut().unwrap().ttl_ms = ttl_ms;
        })
        .await
    }

    /// A task below another, with all the time that there is.
    async fn begin_below(&mut self, pid: u32, parent: &Workload) -> Workload {
        // What is due first ends first, and of two at once the one that began first.
        self.clock.advance(MILLISECOND);
        let parent_id = parent.id.clone();
        Workload::begin_as(&mut self.node, pid, |ask| ask.parent_id = parent_id).await
    }
}

async fn by_hand(world: &World, node: &Node, clock: &ManualClock) -> Watch {
    let clocks = Arc::new(ByHand(clock.clone()));
    let watch = watching(world, node, node.identity.clone(), clocks);
    tokio::time::timeout(SOON, watch.synced()).await.unwrap();
    watch
}

/// Why a task ended, by the log.
async fn recorded(world: &World, of: &TaskBinding) -> Option<Cause> {
    let records = world.server.issuer.store().records(0, 1000).await.unwrap();
    records.iter().find_map(|record| match record.change {
        Change::End { task, cause, .. } if task == of.task => Some(cause),
        _ => None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_past_its_deadline_ends_by_itself_and_a_verifier_refuses_it() {
    let mut stage = Stage::new().await;
    let short = stage.begin(1, 2 * MINUTE).await;
    let long = stage.begin(2, 30 * MINUTE).await;
    let deadline = stage.world.task(&short.id).await.deadline_ms;
    assert_eq!(deadline, (stage.clock.now() + 2 * MINUTE).millis());
    stage.watch.check(&short.binding()).unwrap();

    stage.clock.advance(2 * MINUTE - MILLISECOND);
    stage.world.server.issuer.expire().await;
    let state = stage.world.task(&short.id).await.state();
    assert_eq!(state, task::State::Live, "not a moment too early");
    stage.clock.advance(MILLISECOND);
    assert_eq!(stage.world.ended(&short.id).await, "expired");
    let ending = stage.world.task(&short.id).await.ending.unwrap();
    assert_eq!(ending.at_ms, deadline);
    let cause = recorded(&stage.world, &short.binding()).await;
    assert_eq!(cause, Some(Cause::EXPIRED));

    until(&stage.watch, &short.binding(), Some("TASK_ENDED")).await;
    until(&stage.watch, &long.binding(), None).await;
    assert_eq!(
        stage.world.task(&long.id).await.state(),
        task::State::Live,
        "what has time goes on"
    );
    let items = vec![node::mint_x509_request::Item {
        task_id: short.id,
        spki: short.key.spki(),
    }];
    let minted = stage.node.client.mint_x509(node::MintX509Request { items });
    let minted = minted.await.unwrap().into_inner().results.remove(0);
    assert_eq!(minted.refusal.unwrap().reason, "TASK_ENDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_below_a_task_ends_with_it_at_its_deadline() {
    let mut stage = Stage::new().await;
    let parent = stage.begin(1, 2 * MINUTE).await;
    let child = stage.begin_below(2, &parent).await;
    let grandchild = stage.begin_below(3, &child).await;
    for below in [&child, &grandchild] {
        let (above, below) = (
            stage.world.task(&parent.id).await,
            stage.world.task(&below.id).await,
        );
        assert_eq!(below.deadline_ms, above.deadline_ms);
        assert_eq!(below.root_id, above.id);
    }

    stage.clock.advance(2 * MINUTE);
    assert_eq!(stage.world.ended(&parent.id).await, "expired");
    for below in [&child, &grandchild] {
        assert_eq!(stage.world.ended(&below.id).await, "parent_ended");
        let cause = recorded(&stage.world, &below.binding()).await;
        assert_eq!(cause, Some(Cause::PARENT_ENDED));
        until(&stage.watch, &below.binding(), Some("TASK_ENDED")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_task_expires_like_any_other() {
    let mut stage = Stage::new().await;
    let held = stage.begin(1, 2 * MINUTE).await;
    held.suspend(&mut stage.world).await;
    until(&stage.watch, &held.binding(), Some("TASK_SUSPENDED")).await;

    stage.clock.advance(2 * MINUTE);
    assert_eq!(stage.world.ended(&held.id).await, "expired");
    until(&stage.watch, &held.binding(), Some("TASK_ENDED")).await;
    let resume = task::ResumeRequest {
        task_id: held.id,
        ..Default::default()
    };
    stage.world.admin.resume_task(resume).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_applies_deadlines_before_it_serves_anybody() {
    let mut stage = Stage::new().await;
    let long = stage.begin(1, 30 * MINUTE).await;
    let mut due = Vec::new();
    for pid in 2..50 {
        due.push(stage.begin(pid, 2 * MINUTE).await);
    }

    let Stage {
        world,
        clock,
        watch,
        ..
    } = stage;
    let away = world.go_away().await;
    clock.advance(2 * MINUTE);
    let mut world = away.come_back().await;
    // Read once, before anything else: nothing is waited for.
    let last = due.last().unwrap();
    assert_eq!(world.task(&last.id).await.ending.unwrap().cause, "expired");
    let lines = world.audit_lines().await;
    let is_of_a_start = |line: &admin::AuditLine| line.action == "server.svid";
    let serves = lines.iter().rposition(is_of_a_start).unwrap();
    for task in &due {
        let is_end = |line: &admin::AuditLine| line.action == "task.end" && line.task_id == task.id;
        // It has no identity to serve with before that.
        assert!(lines.iter().position(is_end).unwrap() < serves);
        let cause = recorded(&world, &task.binding()).await;
        assert_eq!(cause, Some(Cause::EXPIRED));
    }
    until(&watch, &last.binding(), Some("TASK_ENDED")).await;
    until(&watch, &long.binding(), None).await;
}
