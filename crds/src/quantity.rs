//! Amounts of a resource, such as `500m` of CPU or `512Mi` of memory.
//!
//! The grammar is that of Kubernetes (`resource.Quantity`) without signs: a decimal number,
//! optionally followed by a binary suffix, a decimal suffix or a decimal exponent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An amount, kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity(String);

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount: write a number with an optional suffix, such as 2, 500m or 512Mi")]
pub struct QuantityError(String);

const SUFFIXES: [&str; 15] = [
    "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi",
];

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let number = text
            .bytes()
            .take_while(|byte| byte.is_ascii_digit() || *byte == b'.');
        let (number, suffix) = text.split_at(number.count());
        let is_number = number.bytes().any(|byte| byte.is_ascii_digit())
            && number.bytes().filter(|byte| *byte == b'.').count() <= 1;
        let exponent = suffix.strip_prefix(['e', 'E']);
        let is_exponent = exponent.is_some_and(|digits| digits.parse::<i8>().is_ok());
        if is_number && (SUFFIXES.contains(&suffix) || suffix == "Ei" || is_exponent) {
            Ok(Self(text.to_owned()))
        } else {
            Err(QuantityError(text.to_owned()))
        }
    }
}

impl Quantity {
    /// The amount as a whole number, rounded up; `None` beyond 64 bits.
    pub fn whole(&self) -> Option<u64> {
        self.times(0)
    }

    /// The amount in thousandths, as CPU is counted, rounded up; `None` beyond 64 bits.
    pub fn thousandths(&self) -> Option<u64> {
        self.times(3)
    }

    /// The amount times ten to the power of `zeros`, rounded up.
    fn times(&self, zeros: i32) -> Option<u64> {
        let digits = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        let end = self.0.bytes().take_while(|byte| digits(*byte)).count();
        let (number, suffix) = self.0.split_at(end);
        let (binary, decimal) = match suffix {
            "Ki" => (10, 0),
            "Mi" => (20, 0),
            "Gi" => (30, 0),
            "Ti" => (40, 0),
            "Pi" => (50, 0),
            "Ei" => (60, 0),
            "n" => (0, -9),
            "u" => (0, -6),
            "m" => (0, -3),
            "k" => (0, 3),
            "M" => (0, 6),
            "G" => (0, 9),
            "T" => (0, 12),
            "P" => (0, 15),
            "E" => (0, 18),
            other => (0, other.get(1..).unwrap_or("0").parse::<i32>().unwrap_or(0)),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // Digits after the 18th are dropped. With any suffix, they are worth less than two units.
        let fraction = fraction.get(..18).unwrap_or(fraction);
        let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
        let exponent = decimal + zeros - i32::try_from(fraction.len()).ok()?;
        let scaled = digits.checked_mul(1 << binary)?;
        let amount = if exponent >= 0 {
            scaled.checked_mul(10_u128.checked_pow(exponent.unsigned_abs())?)?
        } else {
            // The amount is so small that the divisor overflows; rounded up, it is one.
            let divisor = 10_u128.checked_pow(exponent.unsigned_abs());
            divisor.map_or(u128::from(scaled > 0), |divisor| scaled.div_ceil(divisor))
        };
        amount.try_into().ok()
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    /// Reads text, or a bare number such as the one in `cpu: 2`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Amount;
        impl de::Visitor<'_> for Amount {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount such as 2, 500m or 512Mi")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Amount)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_those_of_kubernetes() {
        for text in [
            "2", "0.5", ".5", "500m", "512Mi", "1Ei", "3E", "12e3", "1E-2",
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), text);
        }
        for text in ["", "m", "-1", "1.2.3", "5 Gi", "512mb", "1e", "2cores"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_of_cpu_are_read_in_thousandths() {
        for (text, thousandths) in [
            ("2", Some(2000)),
            ("500m", Some(500)),
            ("1.5", Some(1500)),
            ("0.0001", Some(1)),
            ("1k", Some(1_000_000)),
            ("1e99", None),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().thousandths(), thousandths);
        }
    }

    #[test]
    fn amounts_are_read_as_whole_numbers_rounded_up() {
        for (text, whole) in [
            ("2", Some(2)),
            ("300Mi", Some(300 << 20)),
            ("300M", Some(300_000_000)),
            ("1.5Gi", Some(3 << 29)),
            ("500m", Some(1)),
            ("12e3", Some(12_000)),
            ("1E-2", Some(1)),
            ("2E", Some(2_000_000_000_000_000_000)),
            ("0", Some(0)),
            ("16Ei", None),
            ("1e99", None),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().whole(), whole, "{text}");
        }
    }
}
