use taskmint_testkit::ManualClock;

use super::heard::Names;
use super::*;

const LINGERING: Duration = Duration::from_secs(31);

const MOST: Most = Most {
    watchers: 100,
    per_identity: 50,
    waited_for: 80,
};

struct World {
    clock: ManualClock,
    watchers: Arc<Watchers>,
}

fn world() -> World {
    let clock = ManualClock::default();
    let watchers = Watchers::new(Arc::new(clock.clone()), LINGERING);
    World { clock, watchers }
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://a.example/{path}")).unwrap()
}

fn workload(name: &str, waited_for: bool) -> NewWatcher {
    NewWatcher {
        spiffe_id: id(name),
        name: name.to_owned(),
        instance: None,
        waited_for,
        is_node: false,
    }
}

fn node(number: u8) -> NewWatcher {
    NewWatcher {
        instance: Some([number; 16]),
        is_node: true,
        ..workload(&format!("taskmint/node/join_token/{number}"), false)
    }
}

fn up_to(sequence: u64) -> Acknowledge {
    Acknowledge {
        sequence,
        ..Acknowledge::default()
    }
}

fn came(number: u32, waited_for: bool, sequence: u64) -> Relayed {
    let name = format!("behind-{number}");
    Relayed {
        number,
        who: Some(Introduced {
            spiffe_id: id(&name),
            name,
            waited_for,
        }),
        sequence,
        left: false,
    }
}

fn stands(number: u32, sequence: u64) -> Relayed {
    Relayed {
        number,
        who: None,
        sequence,
        left: false,
    }
}

fn gone(number: u32) -> Relayed {
    Relayed {
        left: true,
        ..stands(number, 0)
    }
}

impl World {
    fn enter(&self, new: NewWatcher) -> Listed {
        self.watchers.enter(new, MOST, self.clock.now()).unwrap()
    }

    fn says(&self, listed: &Listed, said: &Acknowledge) -> Result<(), AckRefused> {
        listed.acknowledge(said, self.clock.now())
    }

    fn heard(&self, position: u64) -> Heard {
        let now = self.clock.now();
        let heard = self.watchers.heard(position, Names::FINAL, now);
        let counts = [
            heard.applied_count,
            heard.applied_by_relay_count,
            heard.not_yet_count,
        ];
        let lists = [
            heard.applied.len(),
            heard.applied_by_relay.len(),
            heard.not_yet.len(),
        ];
        assert_eq!(counts, lists);
        heard
    }

    fn not_yet(&self, position: u64) -> Vec<String> {
        let heard = self.heard(position);
        heard.not_yet.into_iter().map(|one| one.name).collect()
    }
}

#[test]
fn what_was_never_sent_can_not_be_acknowledged() {
    let world = world();
    let listed = world.enter(workload("db", true));
    listed.sent(7);
    assert_eq!(
        world.says(&listed, &up_to(8)),
        Err(AckRefused::NeverSent {
            sequence: 8,
            sent: 7
        })
    );
    world.says(&listed, &up_to(7)).unwrap();
    assert_eq!(
        world.says(&listed, &up_to(6)),
        Err(AckRefused::WentBack {
            sequence: 6,
            acknowledged: 7
        })
    );
    // Saying it again is no fault.
    world.says(&listed, &up_to(7)).unwrap();
    assert_eq!(listed.acknowledged(), 7);
}

#[test]
fn only_those_with_the_grant_are_waited_for() {
    let world = world();
    let granted = world.enter(workload("db", true));
    let _other = world.enter(workload("idle", false));
    assert_eq!(world.not_yet(5), ["db"]);
    granted.sent(5);
    world.says(&granted, &up_to(5)).unwrap();
    assert_eq!(world.not_yet(5), [""; 0]);
    assert_eq!(world.heard(5).applied[0].name, "db");
    assert_eq!(world.watchers.list().len(), 2);
}

#[test]
fn who_left_a_second_ago_is_waited_for_until_it_must_have_closed() {
    let world = world();
    let listed = world.enter(workload("db", true));
    listed.sent(4);
    world.says(&listed, &up_to(4)).unwrap();
    drop(listed);
    world.clock.advance(Duration::from_secs(1));
    let heard = world.heard(5);
    assert_eq!(heard.not_yet[0].name, "db");
    let left = heard.not_yet[0].left_at.unwrap();
    assert_eq!(world.clock.now().since(left), Duration::from_secs(1));
    assert_eq!(world.not_yet(4), [""; 0], "it had applied that");
    world.clock.advance(LINGERING - Duration::from_secs(1));
    assert_eq!(world.not_yet(5), [""; 0]);
}

#[test]
fn who_comes_back_takes_up_its_own_seat_and_nobody_elses() {
    let world = world();
    let db = |instance| NewWatcher {
        instance: Some([instance; 16]),
        ..workload("db", true)
    };
    let (first, second) = (world.enter(db(1)), world.enter(db(2)));
    assert_eq!(world.not_yet(5), ["db", "db"]);
    // A connection that is half open still has its seat when the watcher is back.
    let again = world.enter(db(1));
    assert_eq!((world.not_yet(5).len(), world.watchers.count()), (2, 2));
    drop(first);
    assert_eq!((world.not_yet(5).len(), world.watchers.count()), (2, 2));
    drop(second);
    again.sent(5);
    world.says(&again, &up_to(5)).unwrap();
    assert_eq!(world.not_yet(5), ["db"], "the other replica left");
    let thief = NewWatcher {
        spiffe_id: id("thief"),
        ..db(2)
    };
    let _thief = world.enter(thief);
    assert!(world.not_yet(5).contains(&"db".to_owned()));
    let _second = world.enter(db(2));
    assert_eq!(world.not_yet(5).len(), 2);
}

#[test]
fn a_relays_word_for_those_behind_it_is_listed_apart() {
    let world = world();
    let relay = world.enter(node(1));
    relay.sent(9);
    let said = Acknowledge {
        sequence: 5,
        relayed: vec![came(1, true, 5), came(2, true, 3), came(3, false, 0)],
        relayed_sequence: 5,
    };
    world.says(&relay, &said).unwrap();
    let heard = world.heard(5);
    assert_eq!((heard.applied.len(), heard.applied_by_relay.len()), (1, 1));
    assert_eq!(heard.applied_by_relay[0].name, "behind-1");
    assert!(heard.applied_by_relay[0].relay.is_some());
    assert_eq!(world.not_yet(5), ["behind-2"]);
    // Nobody is mentioned: all stand where the rest stands.
    let said = Acknowledge {
        sequence: 6,
        relayed_sequence: 6,
        ..Acknowledge::default()
    };
    world.says(&relay, &said).unwrap();
    assert!(world.heard(6).is_complete());
    let behind: Vec<_> = world.watchers.list();
    assert_eq!(behind.len(), 4);
    assert!(behind.iter().all(|watcher| watcher.acknowledged == 6));
    // One leaves behind; another goes.
    let said = Acknowledge {
        sequence: 9,
        relayed: vec![stands(1, 7), gone(2)],
        relayed_sequence: 9,
    };
    world.says(&relay, &said).unwrap();
    assert_eq!(world.not_yet(9), ["behind-1", "behind-2"]);
    assert_eq!(world.not_yet(7), ["behind-2"]);
}

#[test]
fn a_relay_can_not_say_what_can_not_be_true() {
    let world = world();
    let relay = world.enter(node(1));
    relay.sent(9);
    let say = |relayed: Vec<Relayed>, rest| {
        world.says(
            &relay,
            &Acknowledge {
                sequence: 9,
                relayed,
                relayed_sequence: rest,
            },
        )
    };
    let never = |sequence| Err(AckRefused::NeverSent { sequence, sent: 9 });
    assert_eq!(say(vec![came(1, true, 10)], 0), never(10));
    assert_eq!(
        say(vec![stands(7, 1)], 0),
        Err(AckRefused::NotIntroduced(7))
    );
    say(vec![came(1, true, 5)], 0).unwrap();
    assert_eq!(say(vec![], 10), never(10));
    let back = |sequence| {
        Err(AckRefused::WentBack {
            sequence,
            acknowledged: 5,
        })
    };
    assert_eq!(say(vec![stands(1, 4)], 0), back(4));
    assert_eq!(say(vec![], 4), back(4));
    let mut long = came(2, true, 5);
    long.who.as_mut().unwrap().name = "x".repeat(MAX_NAME + 1);
    assert_eq!(say(vec![long], 5), Err(AckRefused::LongName));
    let most = u32::try_from(MAX_RELAYED).unwrap();
    let crowd = (10..10 + most).map(|number| came(number, false, 0));
    assert_eq!(say(crowd.collect(), 5), Err(AckRefused::TooManyRelayed));
    let workload = world.enter(workload("db", true));
    let said = Acknowledge {
        relayed: vec![came(1, true, 0)],
        ..Acknowledge::default()
    };
    assert_eq!(world.says(&workload, &said), Err(AckRefused::NoRelay));
}

#[test]
fn those_behind_a_relay_that_is_cut_off_are_waited_for_until_they_are_back() {
    let world = world();
    let relay = world.enter(node(1));
    relay.sent(5);
    let said = Acknowledge {
        sequence: 5,
        relayed: vec![came(1, true, 4), came(2, true, 5)],
        relayed_sequence: 0,
    };
    world.says(&relay, &said).unwrap();
    drop(relay);
    assert_eq!(world.not_yet(5), ["behind-1"]);
    assert_eq!(world.not_yet(6).len(), 3);
    let relay = world.enter(node(1));
    relay.sent(6);
    let said = Acknowledge {
        sequence: 6,
        relayed: vec![came(1, true, 6)],
        relayed_sequence: 0,
    };
    world.says(&relay, &said).unwrap();
    assert_eq!(world.not_yet(6), ["behind-2"]);
}

#[test]
fn beyond_the_cap_nobody_is_waited_for_and_beyond_the_others_nobody_is_let_in() {
    let world = world();
    let most = Most {
        watchers: 4,
        per_identity: 2,
        waited_for: 2,
    };
    let enter = |new| world.watchers.enter(new, most, world.clock.now());
    let listed = [
        enter(workload("a", true)).unwrap(),
        enter(workload("a", true)).unwrap(),
    ];
    assert_eq!(enter(workload("a", true)).unwrap_err(), TooMany);
    let third = enter(workload("b", true)).unwrap();
    assert!(!third.is_waited_for() && listed[0].is_waited_for());
    let _fourth = enter(workload("b", true)).unwrap();
    assert_eq!(enter(workload("c", true)).unwrap_err(), TooMany);
    drop(listed);
    // Those who left still count among those waited for.
    assert!(!enter(workload("c", true)).unwrap().is_waited_for());
    world.clock.advance(LINGERING);
    assert!(enter(workload("c", true)).unwrap().is_waited_for());
}

#[test]
fn frames_are_prompt_while_somebody_waits_and_the_last_to_hear_wakes_it() {
    let world = world();
    let listed = [1, 2].map(|number| world.enter(node(number)));
    assert_eq!(world.watchers.wanted(), 0);
    let low = world.watchers.want(3, 2).unwrap();
    let high = world.watchers.want(5, 2).unwrap();
    assert!(world.watchers.want(9, 2).is_none());
    assert_eq!(world.watchers.wanted(), 5);
    let mut pending = world.watchers.pending(5);
    high.tally.need(high.tally.reached(), pending.len());
    for one in &listed {
        assert_eq!(pending.len(), 2);
        one.sent(5);
        world.says(one, &up_to(5)).unwrap();
    }
    assert!(pending.shrink() && pending.len() == 0);
    assert_eq!((high.tally.reached(), low.tally.reached()), (2, 2));
    drop(high);
    assert_eq!(world.watchers.wanted(), 3);
    drop(low);
    assert_eq!(world.watchers.wanted(), 0);
}

#[test]
fn an_end_that_nobody_can_have_heard_is_counted_without_looking_at_all() {
    let world = world();
    let listed: Vec<_> = (0..40).map(|_| world.enter(workload("db", true))).collect();
    let few = Names {
        applied: 3,
        not_yet: 3,
    };
    let heard = world.watchers.heard(9, few, world.clock.now());
    assert_eq!((heard.not_yet.len(), heard.not_yet_count), (3, 40));
    listed[0].sent(9);
    world.says(&listed[0], &up_to(9)).unwrap();
    let heard = world.watchers.heard(9, few, world.clock.now());
    assert_eq!((heard.not_yet.len(), heard.not_yet_count), (3, 39));
    assert_eq!((heard.applied.len(), heard.applied_count), (1, 1));
}
