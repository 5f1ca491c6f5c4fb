//! Times that were measured, and their percentiles.

use std::time::Duration;

use anyhow::ensure;

/// Times of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// One more.
    pub(crate) fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Those of another.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest time that `percent` of all do not exceed (nearest rank), in milliseconds.
    ///
    /// # Errors
    /// When nothing was measured.
    pub(crate) fn percentile(&self, percent: f64) -> anyhow::Result<f64> {
        ensure!(!self.0.is_empty(), "nothing was measured in that time");
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (percent / 100.0 * sorted.len() as f64).ceil().max(1.0) as usize;
        let at = rank.min(sorted.len()) - 1;
        let sample = sorted.get(at).copied().unwrap_or_default();
        Ok(sample.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: impl IntoIterator<Item = u64>) -> Samples {
        let mut samples = Samples::default();
        for each in millis {
            samples.add(Duration::from_millis(each));
        }
        samples
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let samples = of((1..=100).rev());
        let of = |percent| samples.percentile(percent).unwrap();
        assert_eq!(
            [of(0.0), of(50.0), of(99.0), of(100.0)],
            [1.0, 50.0, 99.0, 100.0]
        );
    }

    #[test]
    fn a_single_sample_is_every_percentile() {
        let samples = of([7]);
        for percent in [0.0, 50.0, 99.0, 100.0] {
            assert_eq!(samples.percentile(percent).unwrap(), 7.0);
        }
    }

    #[test]
    fn of_few_samples_the_99th_percentile_is_the_worst() {
        assert_eq!(of([1, 2, 3, 40]).percentile(99.0).unwrap(), 40.0);
    }

    #[test]
    fn nothing_has_no_percentile() {
        assert!(of([]).percentile(50.0).is_err());
    }
}
