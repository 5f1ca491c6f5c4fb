use proptest::prelude::*;
use taskmint_model::{Authority, EndTrace, Holder, Limits, TaskTimes};
use taskmint_status::{LogId, Place};
use taskmint_testkit::ManualClock;

use super::*;

fn holding() -> Holding {
    let (liveness, exits) = Liveness::new();
    // Somebody must read the exits, or nothing can be watched.
    Box::leak(Box::new(exits));
    Holding::new(Arc::new(ManualClock::default()), liveness)
}

fn id(number: u8) -> TaskId {
    TaskId::from_octets([number; 16])
}

fn entry() -> EntryId {
    EntryId::from_octets([9; 16])
}

/// This very process: it lives, and can be watched.
fn own() -> Process {
    HeldProcess::open(std::process::id()).unwrap().process()
}

fn dead() -> Process {
    Process {
        start_time: 0,
        ..own()
    }
}

fn task(number: u8, kind: TaskKind, binding: Binding, process: Process) -> Task {
    let at = |secs| Timestamp::from_secs(secs);
    Task {
        id: id(number),
        version: 1,
        root: id(number),
        parent: None,
        depth: 0,
        continues: None,
        place: Place::new(LogId([1; 8]), 1, 1).unwrap(),
        kind,
        entry: Some(entry()),
        spiffe_id: "spiffe://example.org/web".parse().unwrap(),
        owner: String::new(),
        purpose: String::new(),
        authority: Authority::default(),
        times: TaskTimes {
            opened: at(u64::from(number)),
            deadline: at(1 << 40),
            limit: at(1 << 40),
        },
        limits: Limits {
            children: 1,
            depth: 1,
        },
        children: 0,
        holder: Holder {
            node: None,
            process: Some(process),
        },
        binding,
        state: State::Live,
        grant: Vec::new(),
    }
}

fn explicit(number: u8, process: Process) -> Task {
    task(number, TaskKind::Explicit, Binding::Tree, process)
}

fn implicit(number: u8) -> Task {
    task(number, TaskKind::Implicit, Binding::Process, own())
}

fn ended(task: &Task, cause: Cause) -> Task {
    let state = State::Ended {
        at: Timestamp::from_secs(1),
        cause,
        by: Actor::Holder,
        trace: EndTrace::default(),
    };
    Task {
        state,
        version: task.version + 1,
        ..task.clone()
    }
}

fn learn(holding: &Holding, task: &Task) -> Learnt {
    holding.learn(task.clone(), Origin::default())
}

#[tokio::test]
async fn an_older_version_says_nothing_and_no_end_is_taken_back() {
    let holding = holding();
    let first = explicit(1, own());
    assert_eq!(learn(&holding, &first), Learnt::Changed);
    let last = ended(&first, Cause::COMPLETED);
    assert_eq!(learn(&holding, &last), Learnt::Ended);
    assert_eq!(learn(&holding, &first), Learnt::Nothing);
    let revived = Task {
        version: 9,
        ..first
    };
    assert_eq!(learn(&holding, &revived), Learnt::Nothing);
    assert!(holding.get(id(1)).unwrap().task.is_ended());
    assert!(holding.seen(&[own()]).is_empty());
    assert_eq!(holding.len(), 0);
}

#[tokio::test]
async fn a_task_of_a_dead_holder_is_never_shown() {
    let holding = holding();
    assert_eq!(learn(&holding, &explicit(1, dead())), Learnt::HolderGone);
    assert_eq!(learn(&holding, &explicit(2, dead())), Learnt::HolderGone);
    assert!(holding.seen(&[dead()]).is_empty());
    learn(&holding, &explicit(3, own()));
    assert_eq!(holding.seen(&[own()]).len(), 1);
    assert_eq!(holding.died(own()).len(), 1);
    assert!(holding.seen(&[own()]).is_empty());
}

#[tokio::test]
async fn who_ever_had_an_explicit_task_gets_no_implicit_one() {
    let holding = holding();
    assert!(!holding.is_or_was_bound(&[own()]));
    learn(
        &holding,
        &task(1, TaskKind::Explicit, Binding::Socket { uid: 0 }, own()),
    );
    assert!(
        !holding.is_or_was_bound(&[own()]),
        "a socket's task is not its beginner's"
    );
    let of_process = explicit(2, own());
    learn(&holding, &of_process);
    learn(&holding, &ended(&of_process, Cause::COMPLETED));
    assert!(holding.is_or_was_bound(&[own()]));
    // And whoever descends from it, even once its ancestor is gone.
    let child = HeldProcess::open(std::os::unix::process::parent_id())
        .unwrap()
        .process();
    assert!(holding.is_or_was_bound(&[child, own()]));
    assert!(holding.is_or_was_bound(&[child]));
    // Forgotten with the process.
    holding.died(own());
    assert!(!holding.is_or_was_bound(&[own()]));
}

#[tokio::test]
async fn only_ends_that_somebody_decided_bar_a_new_implicit_task() {
    for (cause, barred) in [
        (Cause::COMPLETED, true),
        (Cause::REVOKED, true),
        (Cause::CANCELLED, true),
        (Cause::EVICTED, true),
        (Cause::EXPIRED, false),
        (Cause::SUPERSEDED, false),
        (Cause::NODE_LOST, false),
        (Cause::HOLDER_DIED, false),
    ] {
        let holding = holding();
        learn(&holding, &implicit(1));
        assert!(holding.implicit(entry(), own()).is_some());
        learn(&holding, &ended(&implicit(1), cause));
        assert!(holding.implicit(entry(), own()).is_none());
        assert_eq!(
            holding.barred(entry(), &[own()]).is_some(),
            barred,
            "{}",
            cause.name()
        );
        // What the server says next is all that counts.
        holding.set_bars([]);
        assert!(holding.barred(entry(), &[own()]).is_none());
    }
}

#[tokio::test]
async fn a_bar_holds_for_descendants_and_for_its_entry() {
    let holding = holding();
    holding.set_bars([(entry(), own(), id(7))]);
    let child = Process { pid: 1, ..own() };
    assert_eq!(holding.barred(entry(), &[child, own()]), Some(id(7)));
    assert_eq!(holding.barred(entry(), &[child]), None);
    assert_eq!(
        holding.barred(EntryId::from_octets([8; 16]), &[own()]),
        None
    );
}

#[tokio::test]
async fn a_successor_takes_its_predecessors_place() {
    let holding = holding();
    learn(&holding, &explicit(1, own()));
    learn(&holding, &explicit(2, own()));
    let successor = Task {
        continues: Some(id(1)),
        ..explicit(3, own())
    };
    learn(&holding, &successor);
    let order: Vec<_> = holding
        .seen(&[own()])
        .iter()
        .map(|held| held.task.id)
        .collect();
    assert_eq!(order.last(), Some(&id(2)));
}

#[tokio::test]
async fn reconciling_keeps_who_lives_and_what_is_newer_than_the_list() {
    let holding = holding();
    learn(&holding, &explicit(1, own()));
    learn(&holding, &explicit(2, own()));
    holding.begin_session();
    // Begun after the session was asked for: the list may not have it.
    learn(&holding, &explicit(3, own()));
    let found = holding.reconcile(vec![
        explicit(1, own()),
        explicit(4, dead()),
        explicit(5, own()),
    ]);
    assert_eq!(found.adopted, [id(1), id(5)]);
    assert_eq!(found.dropped, [id(2)]);
    assert!(holding.get(id(2)).unwrap().task.is_ended());
    assert!(!holding.get(id(3)).unwrap().task.is_ended());
    // What the server says later of the dropped one is believed.
    let truth = Task {
        version: 5,
        ..ended(&explicit(2, own()), Cause::REVOKED)
    };
    assert_eq!(learn(&holding, &truth), Learnt::Changed);
    let State::Ended { cause, .. } = holding.get(id(2)).unwrap().task.state else {
        panic!()
    };
    assert_eq!(cause, Cause::REVOKED);
}

#[tokio::test]
async fn who_was_bound_by_another_stays_confined_and_who_bound_itself_does_not() {
    let above = HeldProcess::open(std::os::unix::process::parent_id()).unwrap();
    let own_held = HeldProcess::open(std::process::id()).unwrap();
    for (beginner, expected) in [(own_held, 1), (above.clone(), 0)] {
        let holding = holding();
        learn(&holding, &explicit(1, above.process()));
        let narrow = explicit(2, own());
        holding.learn(
            narrow.clone(),
            Origin {
                beginner: Some(beginner),
                folder: None,
            },
        );
        let seen = holding.seen(&[own(), above.process()]);
        assert_eq!(
            seen.iter().map(|held| held.task.id).collect::<Vec<_>>(),
            [id(2)]
        );
        learn(&holding, &ended(&narrow, Cause::COMPLETED));
        assert_eq!(holding.seen(&[own(), above.process()]).len(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is said in whatever order: ends are final, and nothing ended is seen.
    #[test]
    fn ends_are_final(script in proptest::collection::vec((1u8..5, 1u64..6, any::<bool>()), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let holding = holding();
            let mut over = HashSet::new();
            for (number, version, ends) in script {
                let live = Task { version, ..explicit(number, own()) };
                let said = if ends {
                    Task { version, ..ended(&live, Cause::FAILED) }
                } else {
                    live
                };
                if learn(&holding, &said) == Learnt::Ended {
                    over.insert(id(number));
                }
                for held in holding.seen(&[own()]) {
                    assert!(!over.contains(&held.task.id));
                }
            }
        });
    }
}
