//! The relay of the revocation log: one stream from the server, however many follow it here.

use taskmint_wire::revocation::revocation_client::RevocationClient;
use taskmint_wire::revocation::watch_request::Message as Said;
use taskmint_wire::revocation::watch_response::Frame;
use taskmint_wire::revocation::{self as wire, Acknowledge, Nonce, Open, Statement, WatchRequest};
use taskmint_wire::{Denied, node};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::fake::{Fake, PATIENCE, entry};
use crate::node::{Node, channel, end, next, reason};

/// A verifier that is played by hand.
struct Hand {
    say: mpsc::Sender<WatchRequest>,
    frames: Streaming<wire::WatchResponse>,
}

impl Hand {
    async fn open(node: &Node, open: Open) -> Self {
        let stream = UnixStream::connect(&node.settings.sockets.revocation)
            .await
            .unwrap();
        let mut client = RevocationClient::new(channel(stream).await);
        let (say, said) = mpsc::channel(4);
        let frames = client.watch(ReceiverStream::new(said)).await.unwrap();
        let hand = Self {
            say,
            frames: frames.into_inner(),
        };
        hand.say(Said::Open(open)).await;
        hand
    }

    /// One that begins with nothing and this nonce.
    async fn fresh(node: &Node, nonce: u8) -> Self {
        let open = Open {
            nonce: vec![nonce; 16].into(),
            name: format!("verifier-{nonce}"),
            ..Default::default()
        };
        Self::open(node, open).await
    }

    async fn say(&self, message: Said) {
        let message = Some(message);
        self.say.send(WatchRequest { message }).await.unwrap();
    }

    async fn acknowledge(&self, sequence: u64) {
        self.say(Said::Acknowledge(Acknowledge {
            sequence,
            ..Default::default()
        }))
        .await;
    }

    async fn frame(&mut self) -> Frame {
        next(&mut self.frames).await.unwrap().frame.unwrap()
    }

    async fn checkpoint(&mut self) -> taskmint_status::Checkpoint {
        loop {
            if let Frame::Checkpoint(checkpoint) = self.frame().await {
                return taskmint_status::Checkpoint::decode(&checkpoint.body).unwrap();
            }
        }
    }

    /// The next head that is as wanted.
    async fn head(&mut self, wanted: impl Fn(&taskmint_status::Head) -> bool) -> wire::Head {
        loop {
            if let Frame::Head(head) = self.frame().await
                && wanted(&taskmint_status::Head::decode(&head.body).unwrap())
            {
                return head;
            }
        }
    }
}

async fn with_log() -> (Fake, Node) {
    let fake = Fake::start().await;
    fake.state(|state| state.has_log = true);
    let node = Node::start(&fake).await;
    (fake, node)
}

#[tokio::test]
async fn fifty_watchers_cost_the_server_one_stream_and_each_has_its_answer() {
    let (fake, node) = with_log().await;
    let mut limits = node.settings.limits;
    limits.max_watches_per_uid = 100;
    node.stop().await;
    fake.state(|state| state.log.opened.clear());
    let node = Node::start_in(&fake, node.dir.clone(), limits).await;
    let mut hands = Vec::new();
    for nonce in 1..=50 {
        hands.push(Hand::fresh(&node, nonce).await);
    }
    for (nonce, hand) in (1..).zip(&mut hands) {
        hand.checkpoint().await;
        // The first head is the answer: nothing counts before it.
        let head = hand.head(|_| true).await;
        let says = taskmint_status::Head::decode(&head.body).unwrap();
        assert_eq!(says.nonce, Some([nonce; 16]));
        hand.say(Said::Nonce(Nonce {
            nonce: vec![nonce + 100; 16].into(),
        }))
        .await;
    }
    for (nonce, hand) in (101..).zip(&mut hands) {
        hand.head(|head| head.nonce == Some([nonce; 16])).await;
    }
    fake.state(|state| state.log.grow(3, false));
    let mut same = Vec::new();
    for hand in &mut hands {
        same.push(hand.head(|head| head.sequence == 3).await);
    }
    assert!(same.windows(2).all(|pair| pair[0].body == pair[1].body));
    assert_eq!(fake.state(|state| state.log.opened.len()), 1);
    assert_eq!(fake.state(|state| state.log.streams.len()), 1);
    node.stop().await;
}

#[tokio::test]
async fn what_the_server_signs_comes_out_as_it_went_in() {
    let (fake, node) = with_log().await;
    let mut hand = Hand::fresh(&node, 7).await;
    let position = hand.checkpoint().await.sequence;
    hand.head(|_| true).await;
    fake.state(|state| state.log.grow(2, false));
    let Frame::Delta(delta) = hand.frame().await else {
        panic!("records come before their head");
    };
    assert_eq!((delta.first, delta.last), (position + 1, position + 2));
    let sent: Vec<_> = (delta.first..=delta.last)
        .flat_map(crate::log::record)
        .collect();
    assert_eq!(delta.records, sent);
    let head = hand.head(|head| head.sequence == position + 2).await;
    assert_eq!(head.signature, vec![3; 64]);
    node.stop().await;
}

#[tokio::test]
async fn watchers_stay_while_the_server_is_away_and_go_on_where_they_were() {
    let (fake, node) = with_log().await;
    let mut hand = Hand::fresh(&node, 7).await;
    hand.head(|_| true).await;
    fake.state(|state| state.log.grow(2, false));
    hand.head(|head| head.sequence == 2).await;
    fake.go_away();
    // It waits for the server, and stays.
    hand.say(Said::Nonce(Nonce {
        nonce: vec![9; 16].into(),
    }))
    .await;
    let mut late = Hand::fresh(&node, 8).await;
    fake.state(|state| {
        state.log.streams.clear();
        state.log.opened.clear();
        state.log.grow(5, false);
    });
    fake.come_back();
    hand.head(|head| head.nonce == Some([9; 16]) && head.sequence == 7)
        .await;
    late.head(|head| head.nonce == Some([8; 16]) && head.sequence == 7)
        .await;
    let open = fake.until(|state| state.log.opened.first().cloned()).await;
    assert_eq!(open.sequence, 2, "it resumes");
    node.stop().await;
}

#[tokio::test]
async fn another_log_sends_everybody_to_its_checkpoint() {
    let (fake, node) = with_log().await;
    let mut hand = Hand::fresh(&node, 7).await;
    hand.head(|_| true).await;
    fake.state(|state| state.log.restore());
    let checkpoint = hand.checkpoint().await;
    assert_eq!((checkpoint.generation.get(), checkpoint.sequence), (2, 10));
    hand.head(|head| head.generation.get() == 2).await;
    // What it had applied was of the other one.
    hand.acknowledge(10).await;
    let over = end(&mut hand.frames).await;
    assert_eq!(reason(&over), "LOG_REPLACED");
    node.stop().await;
}

#[tokio::test]
async fn nonsense_from_the_server_is_not_passed_on_and_does_no_harm() {
    let (fake, node) = with_log().await;
    let mut hand = Hand::fresh(&node, 7).await;
    hand.head(|_| true).await;
    let nonsense = [
        Frame::Head(wire::Head::default()),
        Frame::Checkpoint(wire::Checkpoint::default()),
        Frame::Delta(wire::Delta {
            records: vec![1; 65].into(),
            first: 1,
            last: 9,
        }),
    ];
    for frame in nonsense {
        let before = fake.state(|state| state.log.opened.len());
        fake.state(|state| state.log.blurt(&frame));
        fake.until(|state| (state.log.opened.len() > before).then_some(()))
            .await;
    }
    fake.state(|state| state.log.grow(1, false));
    hand.head(|head| head.sequence == 1).await;
    node.stop().await;
}

#[tokio::test]
async fn a_watcher_that_never_reads_delays_nobody() {
    let (fake, node) = with_log().await;
    let idle = Hand::fresh(&node, 6).await;
    let mut hand = Hand::fresh(&node, 7).await;
    hand.head(|_| true).await;
    for number in 1..=40 {
        fake.state(|state| state.log.grow(1000, false));
        hand.head(|head| head.sequence == number * 1000).await;
    }
    drop(idle);
    node.stop().await;
}

#[tokio::test]
async fn the_relay_tells_who_is_waited_for_behind_it_and_what_they_have_applied() {
    let (fake, node) = with_log().await;
    let waited_for = node::Entry {
        watch: true,
        ..entry(1, "/db")
    };
    fake.put_entries(vec![waited_for]).await;
    let mut hand = loop {
        // Until the node knows of the entry.
        let mut hand = Hand::fresh(&node, 7).await;
        hand.head(|_| true).await;
        let named = |said: &Acknowledge| said.relayed.iter().any(|one| one.waited_for);
        let told = fake.until(|state| state.log.acknowledged.iter().any(named).then_some(()));
        let soon = tokio::time::timeout(PATIENCE / 20, told);
        if soon.await.is_ok() {
            break hand;
        }
    };
    let one = fake.state(|state| {
        let all = state.log.acknowledged.iter().flat_map(|said| &said.relayed);
        all.rev().find(|one| one.waited_for).cloned().unwrap()
    });
    assert_eq!(
        (one.name.as_str(), one.spiffe_id.as_str()),
        ("verifier-7", "spiffe://example.org/db")
    );
    fake.state(|state| state.log.grow(1, true));
    loop {
        let frame = next(&mut hand.frames).await.unwrap();
        if matches!(frame.frame, Some(Frame::Head(_))) && frame.prompt {
            break;
        }
    }
    hand.acknowledge(1).await;
    fake.until(|state| {
        let last = state.log.acknowledged.last()?;
        (last.relayed_sequence == 1).then_some(())
    })
    .await;
    drop(hand);
    fake.until(|state| {
        let mut all = state.log.acknowledged.iter().flat_map(|said| &said.relayed);
        all.any(|gone| gone.left && gone.number == one.number)
            .then_some(())
    })
    .await;
    node.stop().await;
}

#[tokio::test]
async fn what_can_not_be_true_ends_a_watch_and_no_other() {
    let (fake, node) = with_log().await;
    let mut other = Hand::fresh(&node, 5).await;
    other.head(|_| true).await;
    let relayed = wire::Relayed::default();
    let lies = [
        Acknowledge {
            sequence: 1_000,
            ..Default::default()
        },
        Acknowledge {
            relayed: vec![relayed],
            ..Default::default()
        },
    ];
    for (nonce, lie) in (6..).zip(lies) {
        let mut hand = Hand::fresh(&node, nonce).await;
        hand.head(|_| true).await;
        hand.say(Said::Acknowledge(lie)).await;
        assert_eq!(end(&mut hand.frames).await.code(), Code::InvalidArgument);
    }
    let opens = [
        (vec![1; 7], 1, "BAD_REQUEST"),
        (vec![9; 8], 1, "UNKNOWN_LOG"),
        (vec![9; 8], 2, "GENERATION_AHEAD"),
    ];
    for (log_id, generation, why) in opens {
        let open = Open {
            log_id: log_id.into(),
            generation,
            ..Default::default()
        };
        let mut hand = Hand::open(&node, open).await;
        let over = end(&mut hand.frames).await;
        assert!(
            reason(&over) == why || over.code() == Code::InvalidArgument,
            "{over}"
        );
    }
    fake.state(|state| state.log.grow(1, false));
    other.head(|head| head.sequence == 1).await;
    node.stop().await;
}

#[tokio::test]
async fn a_watcher_learns_why_the_server_lets_the_relay_not_follow() {
    let fake = Fake::start().await;
    let refused = Denied::new(Code::ResourceExhausted, "TOO_MANY_WATCHERS", "too many");
    fake.state(|state| {
        state.has_log = true;
        state.log.refuse = Some(Status::from(refused));
    });
    let node = Node::start(&fake).await;
    let mut hand = Hand::fresh(&node, 7).await;
    assert_eq!(reason(&end(&mut hand.frames).await), "TOO_MANY_WATCHERS");
    fake.state(|state| state.log.refuse = None);
    let back = async {
        loop {
            let mut hand = Hand::fresh(&node, 8).await;
            if next(&mut hand.frames).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, back).await.unwrap();
    node.stop().await;
}

/// What one says that has applied everything up to here of the log that is played.
fn applied(sequence: u64) -> Open {
    Open {
        log_id: vec![1; 8].into(),
        generation: 1,
        sequence,
        nonce: vec![9; 16].into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn who_is_ahead_of_the_relay_waits_for_it() {
    let (fake, node) = with_log().await;
    let mut hand = Hand::fresh(&node, 7).await;
    hand.head(|_| true).await;
    let mut ahead = Hand::open(&node, applied(3)).await;
    // It has, and says so before it was sent anything.
    ahead.acknowledge(3).await;
    fake.state(|state| state.log.grow(5, false));
    let Frame::Delta(delta) = ahead.frame().await else {
        panic!("it goes on where it was");
    };
    assert_eq!((delta.first, delta.last), (4, 5));
    ahead.head(|head| head.sequence == 5).await;
    node.stop().await;
}

/// Once the agent has reported it.
async fn server_hears_of_other_history(fake: &Fake) -> Vec<String> {
    fake.until(|state| {
        let mut reports = state.denials.iter();
        let told = reports.find(|report| report.reason == "OTHER_HISTORY")?;
        Some(told.detail.clone())
    })
    .await
}

#[tokio::test]
async fn a_verifier_that_was_shown_two_histories_says_so_when_the_log_has_moved_on() {
    let (fake, node) = with_log().await;
    let mut hand = Hand::fresh(&node, 7).await;
    hand.head(|_| true).await;
    fake.state(|state| state.log.grow(3, false));
    hand.head(|head| head.sequence == 3).await;
    // Of two logs of one generation it had come to follow the other one.
    let forked = Open {
        forked: true,
        log_id: vec![2; 8].into(),
        shown: vec![Statement::default()],
        ..applied(2)
    };
    // Whoever has no identity here raises no alarm.
    let mut nobody = Hand::open(&node, forked.clone()).await;
    assert_eq!(reason(&end(&mut nobody.frames).await), "UNKNOWN_LOG");
    fake.put_entries(vec![entry(1, "/db")]).await;
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        // Until the node knows of the entry.
        let mut other = Hand::open(&node, forked.clone()).await;
        if reason(&end(&mut other.frames).await) == "OTHER_HISTORY" {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "the fork is not heard of"
        );
        tokio::time::sleep(PATIENCE / 100).await;
    }
    let told = server_hears_of_other_history(&fake).await;
    assert!(
        told.iter()
            .any(|line| line.starts_with("shown: the key is refused")),
        "{told:?}"
    );
    assert!(
        told.iter().any(|line| line.starts_with("no proof")),
        "{told:?}"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_verifier_with_another_history_is_denied_and_the_server_hears_of_it() {
    let (fake, node) = with_log().await;
    let mut hand = Hand::fresh(&node, 7).await;
    hand.head(|_| true).await;
    fake.state(|state| state.log.grow(2, false));
    hand.head(|head| head.sequence == 2).await;
    let forked = Open {
        log_hash: vec![8; 32].into(),
        ..applied(2)
    };
    let mut other = Hand::open(&node, forked).await;
    assert_eq!(reason(&end(&mut other.frames).await), "OTHER_HISTORY");
    server_hears_of_other_history(&fake).await;
    fake.state(|state| state.log.grow(1, false));
    hand.head(|head| head.sequence == 3).await;
    node.stop().await;
}

#[tokio::test]
async fn a_copy_whose_checkpoint_is_too_old_gets_another_and_disturbs_nobody() {
    let (fake, node) = with_log().await;
    let mut hand = Hand::fresh(&node, 7).await;
    hand.head(|_| true).await;
    let opened = fake.state(|state| state.log.opened.len());
    // More than the relay keeps.
    for number in 1..=70 {
        fake.state(|state| state.log.grow(4096, false));
        hand.head(|head| head.sequence == number * 4096).await;
    }
    assert_eq!(fake.state(|state| state.log.opened.len()), opened);
    let mut late = [Hand::fresh(&node, 8).await, Hand::fresh(&node, 9).await];
    for late in &mut late {
        assert_eq!(late.checkpoint().await.sequence, 70 * 4096);
        late.head(|head| head.nonce.is_some()).await;
    }
    assert_eq!(fake.state(|state| state.log.opened.len()), opened + 1);
    fake.state(|state| state.log.grow(1, false));
    loop {
        match hand.frame().await {
            Frame::Checkpoint(_) => panic!("it had everything"),
            Frame::Delta(delta) => assert_eq!(delta.first, 70 * 4096 + 1),
            Frame::Head(head) => {
                let says = taskmint_status::Head::decode(&head.body).unwrap();
                if says.sequence > 70 * 4096 {
                    break;
                }
            }
        }
    }
    node.stop().await;
}
