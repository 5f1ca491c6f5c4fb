//! Journeys through the whole of Taskmint; see `main.rs`.
