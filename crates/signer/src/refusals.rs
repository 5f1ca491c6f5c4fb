//! What was refused, said where the one who asked can't take it back.
//!
//! A server in good order is refused next to nothing: it has looked at the same rules before. So many
//! refusals are a server of another configuration, or one that was taken over and tries (P23).

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use taskmint_mint::Refusal;
use taskmint_mint::protocol::Answer;

/// A line at most so often: who tries must not fill the log.
const PAUSE: Duration = Duration::from_secs(10);

/// Counts refusals, and says so in the log.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    count: u64,
    said_at: Option<Instant>,
}

impl Refusals {
    /// Counts those of an answer.
    pub(crate) fn count(&self, answer: &Answer) {
        let of_batch: &[_] = match answer {
            Answer::Batch(answers) => answers,
            _ => &[],
        };
        let own = match answer {
            Answer::Refused(refusal) => Some(refusal),
            _ => None,
        };
        let refused = of_batch.iter().filter_map(|answer| answer.as_ref().err());
        let (mut count, mut last) = (0, None);
        for refusal in refused.chain(own) {
            (count, last) = (count + 1, Some(refusal));
        }
        if let Some(last) = last
            && let Some(total) = self.add(count, Instant::now())
        {
            say(total, last);
        }
    }

    /// How many there were, if that is to be said now.
    fn add(&self, more: u64, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        state.count += more;
        let is_due = state
            .said_at
            .is_none_or(|at| now.duration_since(at) >= PAUSE);
        is_due.then(|| {
            state.said_at = Some(now);
            state.count
        })
    }
}

fn say(total: u64, last: &Refusal) {
    tracing::warn!(
        total,
        reason = %last,
        "refused what the server asked for: is its configuration another, or somebody else at it?"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_few_are_said() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.add(2, start), Some(2));
        assert_eq!(refusals.add(1, start + Duration::from_secs(9)), None);
        assert_eq!(refusals.add(1, start + Duration::from_secs(10)), Some(4));
    }
}
