//! How many workers CPU carries.

/// How many workers this much CPU carries, in thousandths of a core: one for each core, and one more
/// for three quarters of a core. At least one.
pub fn workers(millicores: u64) -> u32 {
    let whole = millicores.saturating_add(250) / 1000;
    u32::try_from(whole).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_quarters_of_a_core_carry_a_worker() {
        let cases = [
            (0, 1),
            (100, 1),
            (1000, 1),
            (1749, 1),
            (1750, 2),
            (2000, 2),
            (3900, 4),
            (u64::MAX, u32::MAX),
        ];
        for (millicores, expected) in cases {
            assert_eq!(workers(millicores), expected, "{millicores}");
        }
    }
}
