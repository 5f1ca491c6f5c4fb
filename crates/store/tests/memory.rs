//! The in-memory store passes the suite.

use taskmint_status::LogId;
use taskmint_store::{Memory, Retention};

async fn open(retention: Retention) -> (Memory, ()) {
    (Memory::with_retention(LogId([7; 8]), retention), ())
}

taskmint_store::conformance!(open);
