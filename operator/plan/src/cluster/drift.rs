//! Whether an object need not be written.
//!
//! Server-side apply of what is there already changes nothing, but it is a
//! request all the same. So each planned object carries the hash of its own
//! bytes: an equal hash on the live one says that nothing was taken away since,
//! and a comparison of what is planned with what is there says that nobody else
//! has changed it.

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use scaledapp_crds::words::annotation;
use serde::Serialize;
use serde_json::Value;

use super::meta::annotation as annotated;

/// Whether `live` is what applying `planned` would make of it: applied last by
/// a plan with the same bytes, and none of its fields changed by others since.
pub fn is_applied<T: Serialize + Metadata<Ty = ObjectMeta>>(live: &T, planned: &T) -> bool {
    let hash =
        |object: &T| annotated(object.metadata(), annotation::APPLIED).map(ToOwned::to_owned);
    hash(planned).is_some() && hash(live) == hash(planned) && carries(live, planned)
}

/// Whether all that `planned` says is so in `live`.
pub(super) fn carries<T: Serialize>(live: &T, planned: &T) -> bool {
    match (serde_json::to_value(live), serde_json::to_value(planned)) {
        (Ok(live), Ok(planned)) => holds(&live, &planned, false, ""),
        _ => false,
    }
}

/// What tells the members of a list apart, as server-side apply has it: others may add
/// members (a sidecar, a variable), and in another order. Lists that are not named
/// here are one value.
pub(super) fn keys(list: &str) -> Option<&'static [&'static str]> {
    Some(match list {
        "containers"
        | "initContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "ephemeralContainers" => &["name"],
        "volumeMounts" => &["mountPath"],
        "ownerReferences" => &["uid"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        _ => return None,
    })
}

/// Whether all of `planned` is in `live`. `amounts`: below a field whose values
/// the API server writes in its own way. `list`: the field that a list is in.
fn holds(live: &Value, planned: &Value, amounts: bool, list: &str) -> bool {
    match (live, planned) {
        (Value::Object(live), Value::Object(planned)) => planned.iter().all(|(name, planned)| {
            let amounts = amounts
                || matches!(
                    name.as_str(),
                    "requests" | "limits" | "sizeLimit" | "divisor"
                );
            match live.get(name) {
                Some(live) => holds(live, planned, amounts, name),
                None => is_empty(planned),
            }
        }),
        (Value::Array(live), Value::Array(planned)) => {
            if let Some(keys) = keys(list) {
                return planned.iter().all(|planned| {
                    let same = |live: &&Value| keys.iter().all(|key| live[key] == planned[key]);
                    let found = live.iter().find(same);
                    found.is_some_and(|live| holds(live, planned, amounts, ""))
                });
            }
            live.len() == planned.len()
                && live
                    .iter()
                    .zip(planned)
                    .all(|(live, planned)| holds(live, planned, amounts, ""))
        }
        (Value::String(live), Value::String(planned)) if amounts => {
            live == planned
                || amount(live)
                    .zip(amount(planned))
                    .is_some_and(|(live, planned)| live == planned)
        }
        (live, planned) => live == planned,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// An amount in billionths; `None` where it is none, or one of a size that
/// nobody has.
pub(super) fn amount(text: &str) -> Option<i128> {
    let digits = text
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
        .count();
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = format!("{fraction:0<9}");
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let billionths = whole
        .checked_mul(1_000_000_000)?
        .checked_add(fraction.get(..9)?.parse().ok()?)?;
    let power = |base: i128, exponent: u32| base.checked_pow(exponent);
    let (times, by) = match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "" => (1, 1),
        "k" => (1_000, 1),
        "M" => (power(1_000, 2)?, 1),
        "G" => (power(1_000, 3)?, 1),
        "T" => (power(1_000, 4)?, 1),
        "P" => (power(1_000, 5)?, 1),
        "E" => (power(1_000, 6)?, 1),
        "Ki" => (1_024, 1),
        "Mi" => (power(1_024, 2)?, 1),
        "Gi" => (power(1_024, 3)?, 1),
        "Ti" => (power(1_024, 4)?, 1),
        "Pi" => (power(1_024, 5)?, 1),
        "Ei" => (power(1_024, 6)?, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match u32::try_from(exponent) {
                Ok(exponent) => (power(10, exponent)?, 1),
                Err(_) => (1, power(10, exponent.unsigned_abs())?),
            }
        }
    };
    Some(billionths.checked_mul(times)? / by)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_add_to_keyed_lists_is_no_change_of_ours() {
        let ours = json!({"containers": [{"name": "app", "env": [{"name": "A", "value": "1"}], "command": ["x"]}]});
        let with = |container: Value| json!({"containers": [{"name": "mesh"}, container]});
        let env = |env: Value| with(json!({"name": "app", "env": env, "command": ["x"]}));
        let (mine, theirs) = (json!({"name": "A", "value": "1"}), json!({"name": "B"}));
        for (live, same) in [
            (env(json!([mine])), true),
            (env(json!([theirs, mine])), true),
            (env(json!([theirs])), false),
            (env(json!([{"name": "A", "value": "2"}])), false),
            (
                with(json!({"name": "app", "env": [mine], "command": ["x", "y"]})),
                false,
            ),
            (json!({"containers": [{"name": "mesh"}]}), false),
        ] {
            assert_eq!(carries::<Value>(&live, &ours), same, "{live}");
        }
    }

    #[test]
    fn amounts_are_equal_however_they_are_written() {
        for (a, b) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1e3", "1k"),
            (".5", "500m"),
        ] {
            assert!(amount(a).is_some() && amount(a) == amount(b), "{a} {b}");
        }
        for (a, b) in [("1", "2"), ("1M", "1Mi"), ("500m", "501m")] {
            assert_ne!(amount(a), amount(b), "{a} {b}");
        }
        assert_eq!(amount("many"), None);
    }
}
