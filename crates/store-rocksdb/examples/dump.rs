//! Prints what a store holds, one fact a line, for whoever checks it from outside.
//!
//! ```text
//! cargo run -p taskmint-store-rocksdb --example dump -- FOLDER
//! ```
//!
//! Opening a store begins an epoch in it, so give it a copy. Lines: `log ID GENERATION`,
//! `record SEQUENCE OCTETS`, `task ID KIND BUCKET INDEX STATE BITS`, `issued BUCKET INDEX KIND SERIAL`.

#![expect(
    clippy::unwrap_used,
    reason = "a reader that fails prints nothing to trust"
)]

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

use taskmint_model::{Clock as _, State, SystemClock, Task};
use taskmint_status::LogId;
use taskmint_store::{Log, TaskQuery, Tasks};
use taskmint_store_rocksdb::{Options, RocksStore};

/// More than any task has.
const ISSUANCES: usize = 100_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).unwrap());
    assert!(folder.is_dir(), "there is no {}", folder.display());
    let store = RocksStore::open(
        &folder,
        LogId([0; 8]),
        SystemClock.now(),
        Options::default(),
    )
    .unwrap();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut say = |line: &dyn Display| writeln!(out, "{line}").unwrap();
    let identity = store.identity();
    say(&format_args!(
        "log {} {}",
        hex(&identity.log.0),
        identity.generation
    ));
    let mut after = 0;
    loop {
        let records = store.records(after, 10_000).await.unwrap();
        let Some(last) = records.last() else { break };
        after = last.sequence;
        for record in &records {
            say(&format_args!(
                "record {} {}",
                record.sequence,
                hex(&record.encode())
            ));
        }
    }
    let mut query = TaskQuery::default();
    loop {
        let page = store.tasks(&query).await.unwrap();
        for task in &page.items {
            let bits = store.status(task.place).await.unwrap();
            let place = format!("{} {}", task.place.bucket(), task.place.index());
            say(&format_args!(
                "task {} {:?} {place} {} {bits:?}",
                task.id,
                task.kind,
                state(task)
            ));
            for issued in store.issuances(task.place, ISSUANCES).await.unwrap() {
                say(&format_args!(
                    "issued {place} {:?} {}",
                    issued.kind,
                    hex(&issued.serial)
                ));
            }
        }
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
}

fn state(task: &Task) -> &'static str {
    match task.state {
        State::Live => "live",
        State::Suspended { .. } => "suspended",
        State::Ended { .. } => "ended",
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
