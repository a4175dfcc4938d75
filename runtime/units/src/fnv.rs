//! One hash that distinguishes versions, names and endpoints. It is no defence against
//! attackers: if they choose the input, they can make collisions.

/// A running FNV-1a hash of 64 bits (RFC 9923).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fnv1a(u64);

impl Default for Fnv1a {
    /// The hash of no bytes.
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv1a {
    /// The hash with `bytes` appended.
    #[must_use]
    pub fn with(self, bytes: impl IntoIterator<Item = u8>) -> Self {
        Self(bytes.into_iter().fold(self.0, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    /// The hash as a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The hash as 16 lower-case hexadecimal digits.
impl std::fmt::Display for Fnv1a {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of RFC 9923, appendix C.
    #[test]
    fn the_hash_is_that_of_the_standard() {
        for (text, hash) in [
            ("", "cbf29ce484222325"),
            ("a", "af63dc4c8601ec8c"),
            ("foobar", "85944171f73967e8"),
        ] {
            assert_eq!(Fnv1a::default().with(text.bytes()).to_string(), hash);
        }
        let halves = Fnv1a::default().with(*b"foo").with(*b"bar");
        assert_eq!(halves.get(), 0x8594_4171_f739_67e8);
    }
}
