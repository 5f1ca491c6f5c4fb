use proptest::prelude::*;

use super::seats::SHOWN;
use super::*;

fn behind() -> Arc<Behind> {
    let behind = Arc::new(Behind::new(Arc::default()));
    behind.begin(1);
    behind
}

fn workload(name: &str, waited_for: bool) -> Kind {
    Kind::Workload(Who {
        spiffe_id: format!("spiffe://example.org/{name}").parse().unwrap(),
        name: name.to_owned(),
        waited_for,
    })
}

fn enter(behind: &Arc<Behind>, kind: Kind) -> Watcher {
    enter_as(behind, kind, None)
}

fn enter_as(behind: &Arc<Behind>, kind: Kind, instance: Option<u8>) -> Watcher {
    let log = behind.state.lock().log;
    behind.enter(Newcomer {
        kind,
        instance: instance.map(|octet| [octet; 16]),
        log,
        applied: 0,
        slot: None,
    })
}

fn at(watcher: &Watcher, sequence: u64) {
    watcher.sent(sequence);
    watcher.acknowledge(sequence).unwrap();
}

fn said(word: &wire::Acknowledge) -> Vec<(u32, &str, u64, bool)> {
    let one = |one: &'_ wire::Relayed| (one.number, one.sequence, one.left);
    let names = word.relayed.iter().map(|one| one.name.as_str());
    let parts = word.relayed.iter().map(one);
    parts
        .zip(names)
        .map(|((number, sequence, left), name)| (number, name, sequence, left))
        .collect()
}

#[test]
fn the_word_names_who_came_who_left_and_who_stands_elsewhere() {
    let (behind, now) = (behind(), Instant::now());
    let own = enter(&behind, Kind::Own);
    let a = enter(&behind, workload("a", true));
    let b = enter(&behind, workload("b", false));
    let _nobody = enter(&behind, Kind::Unnamed);
    assert_eq!(behind.due(1, now), None, "nothing was sent yet");
    behind.headed(5, false);
    assert_eq!(behind.due(1, now), Some(now));
    at(&own, 4);
    let word = behind.word(now);
    assert_eq!((word.sequence, word.relayed_sequence), (4, 0));
    assert_eq!(said(&word), [(1, "a", 0, false), (2, "b", 0, false)]);
    assert!(word.relayed[0].waited_for && !word.relayed[1].waited_for);
    assert_eq!(behind.due(1, now), None);

    at(&a, 5);
    assert_eq!(behind.due(1, now), Some(now + LAZY));
    let word = behind.word(now);
    assert_eq!(word.relayed_sequence, 5);
    assert_eq!(said(&word), [(2, "", 0, false)]);
    drop(b);
    assert_eq!(behind.due(1, now), Some(now + PROMPT));
    let word = behind.word(now);
    assert_eq!(said(&word), [(2, "", 0, true)]);
    assert_eq!(word.relayed_sequence, 5);
}

#[test]
fn who_is_waited_for_is_told_of_as_soon_as_all_have_applied() {
    let (behind, now) = (behind(), Instant::now());
    let own = enter(&behind, Kind::Own);
    let a = enter(&behind, workload("a", true));
    let idle = enter(&behind, workload("idle", false));
    behind.headed(3, false);
    behind.word(now);
    behind.headed(5, true);
    assert!(behind.prompts(&a, 5) && behind.prompts(&idle, 6));
    assert!(!behind.prompts(&a, 4), "that head is not the one");
    at(&own, 5);
    assert_eq!(behind.due(1, now), Some(now + PROMPT));
    at(&a, 5);
    assert!(!behind.prompts(&a, 6));
    assert_eq!(behind.due(1, now), Some(now), "nobody waits for idle");
    behind.word(now);
    at(&idle, 5);
    assert_eq!(behind.due(1, now), Some(now + LAZY));
}

#[test]
fn a_new_stream_hears_of_everybody_anew_and_of_nothing_that_it_was_not_sent() {
    let (behind, now) = (behind(), Instant::now());
    let a = enter(&behind, workload("a", true));
    let gone = enter(&behind, workload("gone", true));
    behind.headed(5, false);
    at(&a, 5);
    behind.word(now);
    behind.begin(2);
    drop(gone);
    assert_eq!((behind.due(1, now), behind.due(2, now)), (None, None));
    behind.headed(4, false);
    assert_eq!(behind.due(2, now), Some(now));
    let word = behind.word(now);
    assert_eq!(said(&word), [(1, "a", 4, false)]);
    assert_eq!((word.sequence, word.relayed_sequence), (0, 4));
}

#[test]
fn who_comes_back_has_its_number_again_and_nobody_else_has() {
    let behind = behind();
    let enter = |name, instance| enter_as(&behind, workload(name, true), Some(instance));
    let (first, other) = (enter("a", 1), enter("a", 2));
    let number = first.seat.number;
    drop(first);
    assert_ne!(enter("b", 1).seat.number, number, "another identity");
    let again = enter("a", 1);
    assert_eq!(again.seat.number, number);
    assert_ne!(other.seat.number, number);
}

#[test]
fn who_is_back_before_its_old_connection_broke_is_there_once() {
    let (behind, now) = (behind(), Instant::now());
    behind.headed(4, false);
    let old = enter_as(&behind, workload("a", true), Some(1));
    at(&old, 4);
    behind.word(now);
    behind.headed(5, true);
    let new = enter_as(&behind, workload("a", true), Some(1));
    assert_eq!(new.seat.number, old.seat.number);
    let word = behind.word(now);
    assert_eq!(said(&word), [(1, "", 0, true), (1, "a", 0, false)]);
    // What comes over the old one counts no more, and its end is not the new one's.
    at(&old, 5);
    drop(old);
    let own = enter(&behind, Kind::Own);
    at(&own, 5);
    assert_eq!(behind.due(1, now), Some(now + PROMPT), "still missing");
    at(&new, 5);
    assert_eq!(behind.due(1, now), Some(now));
    let word = behind.word(now);
    assert_eq!((word.sequence, word.relayed_sequence), (5, 5));
    assert_eq!(said(&word), []);
}

#[test]
fn what_can_not_be_true_is_refused() {
    let behind = behind();
    let a = enter(&behind, workload("a", true));
    a.sent(5);
    assert!(a.acknowledge(6).is_err());
    a.acknowledge(5).unwrap();
    assert!(a.acknowledge(4).is_err());
    a.acknowledge(5).unwrap();
}

#[test]
fn nobody_is_taken_for_a_follower_of_the_log_that_came_after_its_own() {
    let (behind, now) = (behind(), Instant::now());
    let replaced = |watcher: &Watcher| {
        let refused = watcher.acknowledge(5).unwrap_err();
        refused.code() == Code::Unavailable
    };
    let a = enter(&behind, workload("a", true));
    at(&a, 5);
    behind.other_log(1);
    assert!(replaced(&a));
    // Let in by what was known a moment ago.
    let late = behind.enter(Newcomer {
        kind: workload("late", true),
        instance: None,
        log: 0,
        applied: 5,
        slot: None,
    });
    assert!(replaced(&late));
    behind.headed(9, true);
    assert_eq!(said(&behind.word(now)), []);
    drop((a, late));
    assert_eq!(said(&behind.word(now)), []);
}

#[test]
fn who_resumes_may_say_so_before_anything_is_sent() {
    let behind = behind();
    let resumed = behind.enter(Newcomer {
        kind: workload("a", true),
        instance: None,
        log: 0,
        applied: 7,
        slot: None,
    });
    resumed.acknowledge(7).unwrap();
    assert!(resumed.acknowledge(8).is_err());
}

#[test]
fn as_many_as_are_shown_are_told_of_in_words_that_the_server_reads() {
    use prost::Message as _;
    let (behind, now) = (behind(), Instant::now());
    let name = "x".repeat(256);
    let come = |waited_for| enter_as(&behind, workload(&name, waited_for), None);
    let mut all: Vec<_> = (0..SHOWN).map(|_| come(false)).collect();
    all.extend((0..SHOWN).map(|_| come(true)));
    let shown = |watcher: &&Watcher| watcher.seat.number > 0;
    assert_eq!(all.iter().filter(shown).count(), SHOWN);
    behind.headed(1 << 40, false);
    for (number, watcher) in (1 << 39..).zip(&all) {
        at(watcher, number);
    }
    let introduced = |word: &wire::Acknowledge| {
        let names = word.relayed.iter().filter(|one| !one.name.is_empty());
        names.count()
    };
    let (mut count, mut words) = (0, 0);
    while behind.due(1, now).is_some() {
        let word = behind.word(now);
        count += introduced(&word);
        words += 1;
        assert!(word.encoded_len() < 64 << 10, "{}", word.encoded_len());
        assert!(words < 100, "it comes to an end");
    }
    assert_eq!(count, SHOWN);
    // Many leave at once, and as many come.
    all.truncate(SHOWN / 2);
    let _more: Vec<_> = (0..SHOWN).map(|_| come(true)).collect();
    let word = behind.word(now);
    assert!(word.encoded_len() < 64 << 10, "{}", word.encoded_len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// The count that is kept says what counting anew would.
    #[test]
    fn however_they_come_and_go_it_is_known_how_many_are_missing(
        steps in prop::collection::vec((0..6, 0_u8..6, 1_u64..20), 1..60),
    ) {
        let behind = behind();
        let mut all: Vec<Watcher> = Vec::new();
        for (step, who, sequence) in steps {
            match step {
                0 => all.push(enter_as(&behind, workload("a", who % 2 == 0), Some(who))),
                1 => all.push(enter(&behind, if who == 0 { Kind::Own } else { workload("b", true) })),
                2 if !all.is_empty() => drop(all.swap_remove(usize::from(who) % all.len())),
                3 => drop(behind.headed(sequence, true)),
                4 => drop(behind.word(Instant::now())),
                _ => {
                    if let Some(watcher) = all.get(usize::from(who)) {
                        watcher.sent(sequence);
                        drop(watcher.acknowledge(sequence));
                    }
                }
            }
            let mut state = behind.state.lock();
            let kept = state.missing;
            state.count_missing(behind.wanted());
            prop_assert_eq!(kept, state.missing);
        }
    }
}
