//! Amounts of a resource, such as `500m` of CPU or `512Mi` of memory.
//!
//! The grammar is that of Kubernetes (`resource.Quantity`): a decimal number
//! with a binary suffix, a decimal suffix or a decimal exponent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An amount, kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity(String);

/// Why a text is no amount.
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

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    /// From text, or from a bare number as people write `cpu: 2`.
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
}
