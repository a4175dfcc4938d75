//! Medians, percentiles and ratios of measurements.

use std::time::Duration;

/// The middle value (the upper one of two); `NaN` without values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of the ratios of rounds that ran side by side. A round that was slow for both
/// sides cancels out. `NaN` without values.
pub fn paired_ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(one, by)| one / by).collect();
    median(&ratios)
}

/// The smallest value that `percent` per cent of all do not exceed (nearest rank); zero
/// without values.
pub fn percentile(values: &[Duration], percent: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_found_in_any_order() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!(median(&[]).is_nan());
        assert!((paired_ratio(&[2.0, 40.0, 3.0], &[1.0, 10.0, 1.0]) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        for (percent, wanted) in [(50.0, 100), (99.0, 198), (100.0, 200), (0.0, 1)] {
            assert_eq!(percentile(&values, percent), Duration::from_millis(wanted));
        }
        assert_eq!(percentile(&[], 99.0), Duration::ZERO);
    }
}
