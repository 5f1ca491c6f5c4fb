//! When heads were signed, and over what: the first half of a receipt's bound (P18).

use std::collections::VecDeque;

use taskmint_model::Timestamp;

/// How many are kept. Of an end before the oldest, only an upper bound is known.
const KEPT: usize = 65_536;

/// The time of the newest head over each position at which one was signed.
#[derive(Debug, Default)]
pub(crate) struct Heads(VecDeque<(u64, Timestamp)>);

impl Heads {
    /// A head over everything up to `sequence` was signed. Neither goes back.
    pub(crate) fn signed(&mut self, sequence: u64, at: Timestamp) {
        match self.0.back_mut() {
            Some((newest, newest_at)) if *newest == sequence => *newest_at = at,
            _ => {
                if self.0.len() == KEPT {
                    self.0.pop_front();
                }
                self.0.push_back((sequence, at));
            }
        }
    }

    /// No head that leaves out `position` has a later time than this. Asked at `now`, when the
    /// position is durable: heads that are being signed read the clock before they read how far
    /// the log goes.
    pub(crate) fn last_without(&self, position: u64, now: Timestamp) -> Timestamp {
        let covering = self.0.partition_point(|(sequence, _)| *sequence < position);
        let before = covering.checked_sub(1).and_then(|last| self.0.get(last));
        match (before, self.0.get(covering)) {
            (Some((_, at)), Some(_)) => *at,
            // The newest may be ahead of a clock that was set back: the next repeats its time.
            (before, None) => before.map_or(now, |(_, at)| now.max(*at)),
            // Those before were forgotten, or another process signed them.
            (None, Some((_, at))) => *at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn the_last_head_without_an_end_is_the_one_before_the_first_that_covers_it() {
        let mut heads = Heads::default();
        for (sequence, time) in [(5, 100), (5, 200), (9, 300), (9, 400), (12, 500)] {
            heads.signed(sequence, at(time));
        }
        let last = |position| heads.last_without(position, at(1_000));
        assert_eq!(last(6), at(200));
        assert_eq!(last(9), at(200));
        assert_eq!(last(10), at(400));
        assert_eq!(last(12), at(400));
    }

    #[test]
    fn what_is_not_covered_yet_may_be_left_out_until_now() {
        let mut heads = Heads::default();
        assert_eq!(heads.last_without(1, at(50)), at(50));
        heads.signed(5, at(100));
        assert_eq!(heads.last_without(6, at(1_000)), at(1_000));
        assert_eq!(heads.last_without(6, at(90)), at(100), "a clock set back");
    }

    #[test]
    fn of_what_another_process_signed_the_first_own_head_is_the_bound() {
        let mut heads = Heads::default();
        heads.signed(5, at(100));
        heads.signed(6, at(200));
        assert_eq!(heads.last_without(3, at(1_000)), at(100));
    }

    #[test]
    fn the_oldest_are_forgotten_and_only_bound() {
        let mut heads = Heads::default();
        let many = u64::try_from(KEPT).unwrap() + 10;
        for sequence in 1..=many {
            heads.signed(sequence, at(sequence));
        }
        assert_eq!(heads.0.len(), KEPT);
        let oldest = heads.0[0].1;
        assert_eq!(heads.last_without(2, at(many)), oldest);
        assert_eq!(heads.last_without(many, at(many)), at(many - 1));
    }
}
