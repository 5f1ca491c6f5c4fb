//! Clocks that do not agree (P33): what is minted counts a little earlier than it was made.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use taskmint_model::{Clock as _, SystemClock, Timestamp};
use taskmint_testkit::ManualClock;
use taskmint_verifier::{verify_jwt, verify_x509};
use taskmint_wire::node;

use crate::harness::World;
use crate::node::{Key, Node, UID};

const MEMORY: &str = "store.kind = \"memory\"\nkeys.kind = \"memory\"";

/// Both credentials of a task that begins now, as a verifier judges them by these clocks.
async fn judged(lines: &str, clocks: &[i64]) -> Vec<(bool, bool)> {
    // Whole seconds, so that a limit is where it is said to be.
    let now = Timestamp::from_secs(SystemClock.now().secs());
    let clock = std::sync::Arc::new(ManualClock::new(now));
    let folder = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    let mut world = World::by(folder, &format!("{MEMORY}\n{lines}"), clock).await;
    world.entry("agent", UID, true).await;
    let mut node = Node::join(&world.token("n1").await).await;
    let begin = node.begin(UID, 7, Key::new().spki());
    let began = node.client.begin_task(begin).await.unwrap().into_inner();
    let item = node::mint_jwt_request::Item {
        task_id: began.task.unwrap().id,
        audience: vec!["a".to_owned()],
    };
    let minted = node::MintJwtRequest { items: vec![item] };
    let minted = node.client.mint_jwt(minted).await.unwrap().into_inner();
    let token = &minted.results[0].token;
    let chain = [CertificateDer::from(began.certificate)];
    let trust = node.trust.get();
    let judge = |skew: &i64| {
        let at = Timestamp::from_secs(now.secs().checked_add_signed(*skew).unwrap());
        (
            verify_x509(&chain, &trust, at).is_ok(),
            verify_jwt(token, "a", &trust, at, Duration::ZERO).is_ok(),
        )
    };
    clocks.iter().map(judge).collect()
}

#[tokio::test]
async fn a_verifier_whose_clock_is_half_a_minute_behind_accepts_what_was_just_minted() {
    let by_default = judged("", &[0, -30, -31]).await;
    assert_eq!(by_default[0], (true, true));
    assert_eq!(by_default[1], (true, true));
    assert!(!by_default[2].0, "and no more than that");
    let configured = judged("credentials.backdate = \"5s\"", &[-5, -6]).await;
    assert!(configured[0].0 && !configured[1].0);
}
