//! Sizes of memory as people write them in flags and files: `300M`, `1Gi`.

use std::str::FromStr;

/// A number of bytes, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// Why a text is not a size; the message shows what a size looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: give bytes, or a number with K, M or G, such as 300M")]
pub struct SizeError(String);

impl FromStr for Size {
    type Err = SizeError;

    /// Parses a whole number of bytes, or one with `K`, `M`, `G`, `Ki`, `Mi` or `Gi`. Both
    /// `300M`, as PM2 writes it, and `300Mi`, as Kubernetes does, mean mebibytes: the
    /// difference is smaller than the variation of a worker's memory.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit {
            "" => Some(0),
            "K" | "Ki" => Some(10),
            "M" | "Mi" => Some(20),
            "G" | "Gi" => Some(30),
            _ => None,
        };
        let bytes = number.parse::<u64>().ok().zip(shift);
        let bytes = bytes.and_then(|(number, shift)| number.checked_mul(1 << shift));
        bytes
            .filter(|bytes| *bytes > 0)
            .map(Self)
            .ok_or_else(|| SizeError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_with_or_without_a_unit_is_bytes() {
        for (text, bytes) in [
            ("4096", 4096),
            ("2K", 2 << 10),
            ("300M", 300 << 20),
            ("300Mi", 300 << 20),
            ("1G", 1 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in ["", "0", "M", "1.5G", "-1", "300MB", "99999999999G"] {
            let message = text.parse::<Size>().unwrap_err().to_string();
            assert!(message.contains("such as 300M"), "{message}");
        }
    }
}
