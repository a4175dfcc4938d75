//! Reads values of fields as the API server does, so that this package accepts the same objects. A
//! null is an absent field, and a quoted value is text.
//!
//! `operator/plan` decides which values are valid.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, de};

/// A null counts as an absent field, because the API server removes it.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Like [`or_default`], for a map: an entry whose value is null counts as absent, too.
pub(crate) fn without_nulls<'de, D, T>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let entries: Option<BTreeMap<String, Option<T>>> = Option::deserialize(deserializer)?;
    let entries = entries.into_iter().flatten();
    Ok(entries
        .filter_map(|(name, value)| Some((name, value?)))
        .collect())
}

/// A whole number. A quoted number is text and is refused, as by the API server.
#[derive(Deserialize)]
#[serde(transparent)]
struct Whole<T: TryFrom<i64>>(#[serde(deserialize_with = "whole_number")] T);

fn whole_number<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    struct Number<T>(PhantomData<T>);
    impl<T: TryFrom<i64>> de::Visitor<'_> for Number<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            number.try_into().map_err(|_| E::custom(WHOLE))
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            i64::try_from(number)
                .map_err(|_| E::custom(WHOLE))
                .and_then(|number| self.visit_i64(number))
        }
        fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
            // The API server accepts 3000.0, too.
            number
                .to_string()
                .parse()
                .map_err(|_| E::custom(WHOLE))
                .and_then(|number| self.visit_i64(number))
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            Err(match text.parse::<i64>() {
                Ok(_) => E::custom(format!("{WHOLE}: write it without quotes")),
                Err(_) => E::custom(WHOLE),
            })
        }
    }
    deserializer.deserialize_any(Number(PhantomData))
}

const WHOLE: &str = "must be a whole number";

/// The whole number of an optional field.
pub(crate) fn whole<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    let number: Option<Whole<T>> = Option::deserialize(deserializer)?;
    Ok(number.map(|number| number.0))
}

/// The whole number of a field that must be there.
pub(crate) fn whole_required<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    Whole::deserialize(deserializer).map(|number| number.0)
}

/// The whole numbers of a list.
pub(crate) fn wholes<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    let numbers: Option<Vec<Whole<T>>> = Option::deserialize(deserializer)?;
    let numbers = numbers.into_iter().flatten();
    Ok(numbers.map(|number| number.0).collect())
}

/// A boolean. A quoted boolean is text and is refused, as by the API server.
struct Truth(bool);

impl<'de> Deserialize<'de> for Truth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl de::Visitor<'_> for Word {
            type Value = Truth;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true or false")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Truth, E> {
                Ok(Truth(value))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Truth, E> {
                Err(match text {
                    "true" | "false" => E::custom("must be true or false: write it without quotes"),
                    _ => E::custom("must be true or false"),
                })
            }
        }
        deserializer.deserialize_any(Word)
    }
}

/// The boolean of an optional field.
pub(crate) fn truth_or_not<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<bool>, D::Error> {
    let truth: Option<Truth> = Option::deserialize(deserializer)?;
    Ok(truth.map(|truth| truth.0))
}

/// A boolean of a field that is false if absent.
pub(crate) fn truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    truth_or_not(deserializer).map(Option::unwrap_or_default)
}
