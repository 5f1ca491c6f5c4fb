//! What a node says in its session: bad input, and which tasks end by an answer.

use std::time::{Duration, Instant};

use taskmint_authority::{InProcess, Policy};
use taskmint_id::SpiffeId;
use taskmint_issuer::Settings;
use taskmint_model::SystemEntropy;
use taskmint_status::LogId;
use taskmint_store::conformance::sample;
use taskmint_store::{Memory, Tasks as _};
use taskmint_testkit::ManualClock;
use taskmint_wire::denial_of;

use super::*;

/// A session of a node that holds tasks.
struct Stage {
    run: Run,
    store: Arc<Memory>,
    told: mpsc::Receiver<Result<node::SessionResponse, Status>>,
    inventories: Inventories,
    begun: u64,
}

impl Stage {
    async fn new() -> Self {
        let node = sample::node(1);
        let trust_domain = node.id.trust_domain().clone();
        let clock = Arc::new(ManualClock::new(sample::NOW));
        let entropy = Arc::new(SystemEntropy);
        let store = Arc::new(Memory::new(LogId([7; 8])));
        let server = SpiffeId::server(&trust_domain, "s").unwrap();
        let settings = Settings::new(trust_domain.clone(), server);
        let policy = Policy::new(trust_domain);
        let authority = InProcess::in_memory(policy, clock.clone(), entropy.clone());
        let (of_issuer, authority) = (Arc::clone(&store), Arc::new(authority));
        let issuer = Issuer::start(settings, of_issuer, authority, clock, entropy);
        let (answers, told) = mpsc::channel(64);
        let session = Session {
            node,
            number: 1,
            lapsed: false,
        };
        let run = Run {
            issuer: issuer.await.unwrap(),
            session,
            answers,
            watch_address: String::new(),
            crls: None,
        };
        Self {
            run,
            store,
            told,
            inventories: Inventories::new(),
            begun: 0,
        }
    }

    /// One more task that the node holds.
    async fn begin(&mut self) -> TaskId {
        self.begun += 1;
        sample::begun(&*self.store, self.begun).await.id
    }

    /// Tells the node of its tasks.
    async fn tell(&mut self) -> Result<Vec<String>, End> {
        self.run.send_inventory(&mut self.inventories).await?;
        let told = self.told.recv().await.unwrap().unwrap();
        let Some(Answer::Inventory(inventory)) = told.message else {
            panic!("{told:?}")
        };
        Ok(inventory.tasks.into_iter().map(|task| task.id).collect())
    }

    async fn say(&mut self, message: node::session_request::Message) -> Result<(), End> {
        self.run.on_request(message, &mut self.inventories).await
    }

    async fn adopt(&mut self, ids: Vec<String>) -> Result<(), End> {
        let open = node::session_request::Open {
            adopted_task_ids: ids,
            adopted: true,
            ..Default::default()
        };
        self.say(node::session_request::Message::Open(open)).await
    }

    async fn live(&self) -> Vec<TaskId> {
        let node = &self.run.session.node.id;
        self.store.held(Some(node), None, 10_000).await.unwrap()
    }
}

fn refused(outcome: Result<(), End>) -> (Code, String) {
    let Err(End::Refused(status)) = outcome else {
        panic!("not refused")
    };
    let (reason, _) = denial_of(&status).unwrap();
    (status.code(), reason)
}

#[tokio::test]
async fn bad_answers_are_refused_each_for_its_reason_and_end_nothing() {
    let mut stage = Stage::new().await;
    let (one, two) = (stage.begin().await, stage.begin().await);
    let one = one.to_string();
    let cases = [
        (vec![String::new()], "BAD_TASK_ID"),
        (vec!["x".to_owned()], "BAD_TASK_ID"),
        (vec![one.clone(), "x".repeat(1 << 20)], "BAD_TASK_ID"),
        (vec![one.replace('-', "")], "BAD_TASK_ID"),
        (vec![format!("{{{one}}}"), one.clone()], "BAD_TASK_ID"),
        (vec![one.clone(); 3], "TOO_MANY_ADOPTED"),
        (vec![String::new(); 100_000], "TOO_MANY_ADOPTED"),
    ];
    for (ids, expected) in cases {
        stage.tell().await.ok().unwrap();
        let expected = (Code::InvalidArgument, expected.to_owned());
        let shown = ids.first().cloned();
        assert_eq!(refused(stage.adopt(ids).await), expected, "{shown:?}");
        assert_eq!(stage.live().await.len(), 2);
    }
    // Of nothing that it was told of.
    assert!(stage.inventories.is_empty());
    let unasked = refused(stage.adopt(vec![one]).await);
    assert_eq!(unasked.1, "TOO_MANY_ADOPTED");
    assert!(stage.adopt(Vec::new()).await.is_ok());
    // One that did not look at its tasks says nothing of them, whatever it lists.
    let open = node::session_request::Open {
        adopted_task_ids: vec!["x".to_owned()],
        ..Default::default()
    };
    let message = node::session_request::Message::Open(open);
    assert!(stage.say(message).await.is_ok());
    // A lease that it does not have.
    let lease = node::session_request::Lease { counter: 1 };
    let lease = stage
        .say(node::session_request::Message::Lease(lease))
        .await;
    let expected = (Code::FailedPrecondition, "LEASE_LAPSED".to_owned());
    assert_eq!(refused(lease), expected);
    assert_eq!(stage.live().await.len(), 2);
    assert!(stage.live().await.contains(&two));
}

#[tokio::test]
async fn what_a_node_does_not_adopt_ends_and_nothing_that_began_after_it_was_told() {
    let mut stage = Stage::new().await;
    let (kept, gone) = (stage.begin().await, stage.begin().await);
    let first = stage.tell().await.ok().unwrap();
    assert_eq!(first.len(), 2);
    // It falls behind, and is told again, of one more: its first answer is to what came first.
    let later = stage.begin().await;
    assert_eq!(stage.tell().await.ok().unwrap().len(), 3);
    assert!(stage.adopt(vec![kept.to_string()]).await.is_ok());
    assert_eq!(stage.live().await, [kept, later]);
    let task = stage.store.task(gone).await.unwrap().unwrap();
    assert!(matches!(task.state, State::Ended { cause, .. } if cause == Cause::HOLDER_DIED));
    // One that is listed twice, or is another's, is harmless.
    let twice = vec![later.to_string(), later.to_string(), gone.to_string()];
    assert!(stage.adopt(twice).await.is_ok());
    assert_eq!(stage.live().await, [later]);
}

#[tokio::test]
async fn a_node_that_never_answers_is_not_told_for_ever() {
    let mut stage = Stage::new().await;
    for _ in 0..MAX_UNANSWERED {
        assert!(stage.tell().await.is_ok());
    }
    let expected = (Code::ResourceExhausted, "INVENTORY_UNANSWERED".to_owned());
    assert_eq!(refused(stage.tell().await.map(drop)), expected);
    assert!(stage.adopt(Vec::new()).await.is_ok());
    assert!(stage.tell().await.is_ok());
}

#[tokio::test]
async fn thousands_of_tasks_are_adopted_or_ended_in_one_answer() {
    const TASKS: usize = 3_000;
    let mut stage = Stage::new().await;
    for _ in 0..TASKS {
        stage.begin().await;
    }
    let told = stage.tell().await.ok().unwrap();
    let odd = told.iter().skip(1).step_by(2).cloned().collect();
    let began = Instant::now();
    assert!(stage.adopt(odd).await.is_ok());
    assert_eq!(stage.live().await.len(), TASKS / 2);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}
