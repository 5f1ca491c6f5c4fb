//! Keys are rotated by an operator while everything goes on: what an old key signed counts as long as
//! it may live, and nobody who follows the log closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use taskmint_id::{Bundle, BundleSet};
use taskmint_model::{Clock as _, SystemClock};
use taskmint_testkit::ManualClock;
use taskmint_verifier::verify_jwt;
use taskmint_verifier::watch::{SystemClocks, Watch};
use taskmint_verifier::{StatusCheck as _, TokenError, VerifiedToken};
use taskmint_wire::admin;
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::checkpoint::watching;
use crate::harness::World;
use crate::joined::{Joined, SOON};
use crate::node::{Node, UID, reason};
use crate::public::{Workload, joined};
use crate::relay::verifier;
use crate::restore::until;

const MEMORY: &str = "store.kind = \"memory\"\nkeys.kind = \"memory\"\ntasks.lease = \"1h\"";

/// So that a verifier that can't read a head says so soon.
const STRICT: &str = "\nrevocation.max_age = \"5s\"\nrevocation.heartbeat = \"200ms\"";
const MAX_AGE: Duration = Duration::from_secs(5);

/// The keys of one use that there are.
async fn keys(world: &mut World, usage: &str) -> Vec<admin::Authority> {
    let list = world
        .admin
        .list_authorities(admin::ListAuthoritiesRequest {});
    let mut keys = list.await.unwrap().into_inner().authorities;
    keys.retain(|key| key.r#use == usage);
    keys
}

async fn prepare(world: &mut World, usage: &str) -> admin::Authority {
    let request = admin::PrepareAuthorityRequest {
        r#use: usage.to_owned(),
    };
    let made = world.admin.prepare_authority(request).await;
    made.unwrap().into_inner()
}

fn named(key: &admin::Authority) -> admin::AuthorityRequest {
    admin::AuthorityRequest { id: key.id.clone() }
}

async fn activate(world: &mut World, key: &admin::Authority) {
    let active = world.admin.activate_authority(named(key)).await;
    assert_eq!(active.unwrap().into_inner().state, "active");
}

async fn retire(world: &mut World, key: &admin::Authority) -> Result<(), Status> {
    world.admin.retire_authority(named(key)).await.map(drop)
}

/// The bundle as whoever asks for it gets it.
async fn bundle(world: &mut World) -> Bundle {
    let answer = world.admin.get_bundle(admin::GetBundleRequest::default());
    let answer = answer.await.unwrap().into_inner();
    Bundle::parse(answer.trust_domain.parse().unwrap(), &answer.data).unwrap()
}

#[tokio::test]
async fn a_token_counts_after_its_key_was_replaced_and_the_key_is_kept_no_longer_than_that() {
    let clock = ManualClock::new(SystemClock.now());
    let folder = Arc::new(TempDir::new().unwrap());
    let mut world = World::by(folder, MEMORY, Arc::new(clock.clone())).await;
    let mut node = joined(&mut world).await;
    let workload = Workload::begin(&mut node, 1).await;
    let token = workload.token(&mut node, "a").await;
    let minted = clock.now();
    let judged = |token: &str, bundle: &Bundle| -> Result<VerifiedToken, TokenError> {
        let trust: BundleSet = std::iter::once(bundle.clone()).collect();
        verify_jwt(token, "a", &trust, minted, Duration::ZERO)
    };

    let old = keys(&mut world, "jwt").await.remove(0);
    let next = prepare(&mut world, "jwt").await;
    let both = bundle(&mut world).await;
    assert!(
        both.jwt_authority(&next.key_id).is_some(),
        "known before it signs"
    );
    activate(&mut world, &next).await;
    let both = bundle(&mut world).await;
    judged(&token, &both).unwrap();
    let newer = workload.token(&mut node, "a").await;
    judged(&newer, &both).unwrap();
    let refused = retire(&mut world, &old).await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::FailedPrecondition, "BAD_STATE"),
        "what it signed may live"
    );

    let listed = keys(&mut world, "jwt").await;
    let listed = listed.iter().find(|key| key.id == old.id).unwrap();
    let longest = Duration::from_millis(listed.needed_until_ms - minted.millis());
    assert_eq!(
        longest,
        Duration::from_secs(11 * 60),
        "a token's most, and leeway"
    );
    clock.advance(longest);
    retire(&mut world, &old).await.unwrap();
    let left: Vec<_> = keys(&mut world, "jwt").await;
    assert_eq!((left.len(), &left[0].id), (1, &next.id));
    let after = bundle(&mut world).await;
    assert!(after.sequence() > both.sequence());
    let refused = judged(&token, &after).unwrap_err();
    assert_eq!(refused.reason(), "TOKEN_KEY_UNKNOWN");
    judged(&newer, &after).unwrap();
}

#[tokio::test]
async fn a_prepared_key_that_is_not_wanted_is_forgotten_and_the_active_one_stays() {
    let mut world = World::in_memory().await;
    let active = keys(&mut world, "ca").await.remove(0);
    let unwanted = prepare(&mut world, "ca").await;
    assert_eq!(bundle(&mut world).await.x509_authorities().len(), 2);
    retire(&mut world, &unwanted).await.unwrap();
    assert_eq!(bundle(&mut world).await.x509_authorities().len(), 1);
    assert_eq!(keys(&mut world, "ca").await, std::slice::from_ref(&active));
    let refused = retire(&mut world, &active).await.unwrap_err();
    assert_eq!(reason(&refused), "BAD_STATE");
    let refused = retire(&mut world, &unwanted).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_SUCH_AUTHORITY");
}

/// Looks at a verifier all the time; whether it was ever closed.
struct Looked(Arc<AtomicBool>, tokio::task::JoinHandle<()>);

impl Looked {
    fn at(watch: &Watch) -> Self {
        let (closed, watch) = (Arc::<AtomicBool>::default(), watch.clone());
        let seen = Arc::clone(&closed);
        let looks = tokio::spawn(async move {
            let mut looks = tokio::time::interval(Duration::from_millis(5));
            loop {
                looks.tick().await;
                if watch.state().closed.is_some() {
                    seen.store(true, Ordering::SeqCst);
                }
            }
        });
        Self(closed, looks)
    }

    fn was_closed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Looked {
    fn drop(&mut self) {
        self.1.abort();
    }
}

/// Tasks end, one after the other, for longer than a head counts, and each end is heard.
async fn ends_are_heard(node: &mut Node, watches: &[Watch], live: &Workload) {
    let until_then = Instant::now() + MAX_AGE + MAX_AGE / 2;
    while Instant::now() < until_then {
        let over = Workload::begin(node, 2).await;
        over.complete(node).await;
        for watch in watches {
            until(watch, &over.binding(), Some("TASK_ENDED")).await;
            watch.check(&live.binding()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_the_log_never_closes_while_its_key_is_replaced() {
    let world = World::with(&format!("{MEMORY}{STRICT}")).await;
    let mut with_agent = Joined::over(world).await;
    with_agent.own_entry(false).await;
    let Joined { mut world, agent } = with_agent;
    world.entry("w", UID, false).await;
    let mut node = Node::join(&world.token("n2").await).await;
    let live = Workload::begin(&mut node, 1).await;
    let direct = |world: &World, node: &Node| {
        watching(world, node, node.identity.clone(), Arc::new(SystemClocks))
    };
    let watches = [direct(&world, &node), verifier(&agent, "behind").await];
    for watch in &watches {
        tokio::time::timeout(SOON, watch.synced()).await.unwrap();
    }
    let looked = [Looked::at(&watches[0]), Looked::at(&watches[1])];

    for _ in 0..2 {
        let next = prepare(&mut world, "log").await;
        activate(&mut world, &next).await;
        ends_are_heard(&mut node, &watches, &live).await;
        assert!(!looked.iter().any(Looked::was_closed), "{watches:?}");
        // So do those who come only now, by a checkpoint that the new key signed.
        for late in [direct(&world, &node), verifier(&agent, "late").await] {
            tokio::time::timeout(SOON, late.synced()).await.unwrap();
            late.check(&live.binding()).unwrap();
        }
    }
}
