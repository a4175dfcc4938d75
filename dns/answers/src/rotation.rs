//! Which addresses an answer contains, and in which order: each answer gets a new uniform
//! permutation of a uniform subset.
//!
//! Clients use the first address, and many recursors keep the order of the answer, so a bias here
//! becomes a bias of load. In `CoreDNS`, a shuffle that only swapped neighbours gave one of 15 pods
//! twice its share (coredns#4960).

/// Picks `count.min(N)` distinct indexes below `count`. Each subset is equally likely, and so is
/// each order of it. `random` returns uniform 64-bit numbers.
pub(crate) fn pick<const N: usize>(
    count: usize,
    random: &mut impl FnMut() -> u64,
) -> std::iter::Take<std::array::IntoIter<usize, N>> {
    let picked = count.min(N);
    let mut indexes = [0; N];
    // Robert Floyd's sampling (Bentley, "A sample of brilliance", 1987) draws a uniform subset
    // without memory proportional to `count`.
    for taken in 0..picked {
        let newest = count - picked + taken;
        let drawn = below(newest as u64 + 1, random) as usize;
        indexes[taken] = if indexes[..taken].contains(&drawn) {
            newest
        } else {
            drawn
        };
    }
    // The order of that subset is not uniform; a Fisher-Yates shuffle makes it so.
    for last in (1..picked).rev() {
        indexes.swap(last, below(last as u64 + 1, random) as usize);
    }
    indexes.into_iter().take(picked)
}

/// A uniform number below `bound`, which is not 0.
fn below(bound: u64, random: &mut impl FnMut() -> u64) -> u64 {
    // Numbers above the last whole multiple of `bound` would favour small results.
    let unfair = u64::MAX - u64::MAX % bound;
    loop {
        let number = random();
        if number < unfair {
            return number % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    fn generator(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    }

    /// Pearson's statistic against a uniform distribution over `cells`.
    fn chi_square(counts: &BTreeMap<Vec<usize>, u32>, cells: u32) -> f64 {
        let total: u32 = counts.values().sum();
        let expected = f64::from(total) / f64::from(cells);
        let missing = f64::from(cells) - counts.len() as f64;
        let seen: f64 = counts
            .values()
            .map(|&n| (f64::from(n) - expected).powi(2) / expected)
            .sum();
        seen + missing * expected
    }

    /// A bound that the statistic exceeds by chance less than once in a million (normal
    /// approximation: mean df, variance 2 df, five sigma).
    fn bound(degrees: f64) -> f64 {
        degrees + 5.0 * (2.0 * degrees).sqrt()
    }

    #[test]
    fn every_order_of_four_is_equally_likely() {
        let mut random = generator(1);
        let mut counts = BTreeMap::new();
        for _ in 0..48_000 {
            *counts
                .entry(pick::<8>(4, &mut random).collect())
                .or_insert(0) += 1;
        }
        let statistic = chi_square(&counts, 24);
        assert!(statistic < bound(23.0), "{statistic}");
    }

    #[test]
    fn every_ordered_subset_is_equally_likely() {
        let mut random = generator(2);
        let mut counts = BTreeMap::new();
        // 6 choose 3, times 3! orders.
        for _ in 0..120_000 {
            *counts
                .entry(pick::<3>(6, &mut random).collect())
                .or_insert(0) += 1;
        }
        let statistic = chi_square(&counts, 120);
        assert!(statistic < bound(119.0), "{statistic}");
    }

    #[test]
    fn each_of_a_hundred_is_picked_and_comes_first_equally_often() {
        let mut random = generator(3);
        let mut present = BTreeMap::new();
        let mut first = BTreeMap::new();
        for _ in 0..100_000 {
            let picked: Vec<_> = pick::<8>(100, &mut random).collect();
            *first.entry(vec![picked[0]]).or_insert(0) += 1;
            for index in picked {
                *present.entry(vec![index]).or_insert(0) += 1;
            }
        }
        assert!(chi_square(&first, 100) < bound(99.0));
        assert!(chi_square(&present, 100) < bound(99.0));
    }

    #[test]
    fn indexes_are_distinct_and_below_the_count() {
        let mut random = generator(4);
        for count in 0..40 {
            let mut picked: Vec<_> = pick::<8>(count, &mut random).collect();
            assert_eq!(picked.len(), count.min(8));
            picked.sort_unstable();
            picked.dedup();
            assert_eq!(picked.len(), count.min(8));
            assert!(picked.iter().all(|&index| index < count));
        }
    }

    #[test]
    fn a_number_that_would_bias_the_result_is_drawn_again() {
        let mut numbers = [u64::MAX, 4].into_iter();
        assert_eq!(below(3, &mut || numbers.next().unwrap()), 1);
        assert_eq!(numbers.next(), None);
    }
}
