use std::future::pending;
use std::io;
use std::sync::atomic::AtomicBool;

use super::*;

/// A task that stops when asked, and notes that it did.
fn obedient(tasks: &Tasks, name: &'static str) -> Arc<AtomicBool> {
    let stopped = Arc::new(AtomicBool::new(false));
    let (shutdown, flag) = (tasks.shutdown().clone(), Arc::clone(&stopped));
    tasks.spawn(name, async move {
        shutdown.requested().await;
        flag.store(true, Ordering::SeqCst);
        Ok::<(), Failure>(())
    });
    stopped
}

/// Polls once, and says whether the future still waits.
async fn still_waits(future: &mut (impl Future + Unpin)) -> bool {
    let poll = |context: &mut std::task::Context<'_>| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
    };
    std::future::poll_fn(poll).await
}

#[tokio::test]
async fn a_panic_stops_the_rest_and_fails_the_process() {
    let tasks = Tasks::new(Shutdown::new());
    let stopped = obedient(&tasks, "listener");
    tasks.spawn("writer", async {
        if true {
            panic!("out of {}", "ink");
        }
        Ok::<(), Failure>(())
    });
    let error = tasks.join().await.expect_err("a task panicked");
    assert_eq!(error.to_string(), "task `writer` panicked: out of ink");
    assert_eq!(error.code(), exit::PANICKED);
    assert!(stopped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_failure_stops_the_rest_and_keeps_its_exit_code() {
    let tasks = Tasks::new(Shutdown::new());
    let stopped = obedient(&tasks, "listener");
    tasks.spawn("main", async {
        Err::<(), _>(Failure::config("unknown key"))
    });
    let error = tasks.join().await.expect_err("a task failed");
    assert_eq!(error.code(), exit::CONFIG);
    assert!(stopped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_service_that_ends_early_is_a_failure_though_it_says_ok() {
    let tasks = Tasks::new(Shutdown::new());
    let stopped = obedient(&tasks, "listener");
    tasks.spawn("watch", async { Ok::<(), io::Error>(()) });
    let error = tasks.join().await.expect_err("a task ended early");
    assert_eq!(error.to_string(), "task `watch` ended early");
    assert_eq!(error.code(), exit::FAILED);
    assert!(stopped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn tasks_that_are_done_end_the_process_well() {
    let tasks = Tasks::new(Shutdown::new());
    tasks.spawn_support("signals", pending::<Result<(), Failure>>());
    tasks.spawn_once("import", async { Ok::<(), Failure>(()) });
    tasks.join().await.expect("nothing failed");
    assert!(tasks.shutdown().is_forced(), "support tasks are told");
}

#[tokio::test]
async fn the_first_failure_is_the_one_reported() {
    let tasks = Tasks::new(Shutdown::new());
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("second", async move {
        shutdown.requested().await;
        Err::<(), _>(io::Error::other("a consequence"))
    });
    tasks.spawn("first", async {
        Err::<(), _>(io::Error::other("the cause"))
    });
    let error = tasks.join().await.expect_err("two tasks failed");
    assert_eq!(error.to_string(), "task `first` failed: the cause");
}

#[tokio::test]
async fn a_drain_waits_for_work_in_hand() {
    let tasks = Tasks::new(Shutdown::new());
    obedient(&tasks, "listener");
    let guard = tasks.shutdown().guard();
    tasks.shutdown().request();
    let joining = tasks.clone();
    let mut joined = std::pin::pin!(joining.join());
    // The listener is gone, so only the guard is left to wait for.
    while !tasks.inner.tracker.is_empty() {
        assert!(still_waits(&mut joined).await, "the guard is still held");
        tokio::task::yield_now().await;
    }
    assert!(still_waits(&mut joined).await, "the guard is still held");
    drop(guard);
    joined.await.expect("drained within the grace");
}

#[tokio::test]
async fn work_that_outlasts_the_grace_is_cut_off_and_named() {
    let tasks = Tasks::new(Shutdown::new());
    let grace = Duration::from_millis(20);
    tasks.set_grace(grace);
    tasks.spawn("deaf", pending::<Result<(), Failure>>());
    let started = tokio::time::Instant::now();
    tasks.shutdown().request();
    let error = tasks.join().await.expect_err("nothing listened");
    assert_eq!(error.code(), exit::NOT_DRAINED);
    assert!(matches!(error, TaskError::NotDrained { ref tasks, guards: 0 } if tasks == &["deaf"]));
    assert!(started.elapsed() >= grace + FORCED_GRACE);
}

#[tokio::test]
async fn a_forced_stop_does_not_wait_for_the_grace() {
    let tasks = Tasks::new(Shutdown::new());
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("slow", async move {
        shutdown.forced().await;
        Ok::<(), Failure>(())
    });
    tasks.set_grace(Duration::MAX);
    tasks.shutdown().request();
    tasks.shutdown().force();
    let error = tasks.join().await.expect_err("it was cut off");
    assert_eq!(error.code(), exit::NOT_DRAINED);
}

#[tokio::test]
async fn readiness_ends_when_the_drain_begins() {
    let tasks = Tasks::new(Shutdown::new());
    tasks.readiness().condition("store").set(true);
    let guard = tasks.shutdown().guard();
    assert!(tasks.readiness().is_ready());
    tasks.shutdown().request();
    let mut joined = std::pin::pin!(tasks.join());
    assert!(still_waits(&mut joined).await, "the guard is still held");
    assert!(!tasks.readiness().is_ready());
    drop(guard);
    joined.await.expect("drained");
}

#[tokio::test]
async fn a_task_may_be_added_while_the_others_run() {
    let tasks = Tasks::new(Shutdown::new());
    let (adder, shutdown) = (tasks.clone(), tasks.shutdown().clone());
    tasks.spawn("listener", async move {
        adder.spawn_once(
            "later",
            async move { Err::<(), _>(io::Error::other("late")) },
        );
        shutdown.requested().await;
        Ok::<(), Failure>(())
    });
    let error = tasks.join().await.expect_err("the later task failed");
    assert_eq!(error.to_string(), "task `later` failed: late");
}
