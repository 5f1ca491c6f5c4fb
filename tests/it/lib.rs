//! Journeys through the whole of Taskmint.
