//! Whether a planned object has to be written.
//!
//! Server-side apply of an unchanged object changes nothing, but costs a request. So each
//! planned object carries the hash of its own bytes. If the live object has the same hash,
//! the plan is the one that was applied last; a comparison of the planned fields with the
//! live ones then shows whether anybody else has changed them.
//!
//! Admission may change a field that the operator writes (a registry mirror, a policy's default).
//! Writing it again in each pass would have the same result each time. So the operator remembers
//! how admission changed a written object ([`Admitted`]). Until the plan changes, the operator
//! writes the object again only if the live object differs from that result, too. In this way,
//! the operator still undoes a change by a person.

use std::collections::BTreeMap;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use scaledapp_crds::words::annotation;
use serde::Serialize;
use serde_json::Value;

use super::meta::annotation as annotated;

/// Whether applying `planned` would change nothing in `live`: the plan that was applied last had
/// the same bytes, and nobody has changed these fields since.
pub fn is_applied<T: Serialize + Metadata<Ty = ObjectMeta>>(live: &T, planned: &T) -> bool {
    applied(planned).is_some() && applied(live) == applied(planned) && carries(live, planned)
}

fn applied<T: Metadata<Ty = ObjectMeta>>(object: &T) -> Option<String> {
    annotated(object.metadata(), annotation::APPLIED).map(ToOwned::to_owned)
}

/// Whether `live` has every field of `planned` with the same value.
pub(super) fn carries<T: Serialize>(live: &T, planned: &T) -> bool {
    differences(live, planned).is_some_and(|found| found.is_empty())
}

/// By path, the live value of each field that is not as planned; `None` if the field is
/// missing.
type Differences = BTreeMap<String, Option<Value>>;

/// What admission changed in an object that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// Hash of what was written.
    hash: String,
    differences: Differences,
}

impl Admitted {
    /// Compares `stored`, which is the API server's answer to the write of `planned`, with
    /// `planned`. `None` if admission changed nothing.
    pub fn of<T: Serialize + Metadata<Ty = ObjectMeta>>(stored: &T, planned: &T) -> Option<Self> {
        let differences = differences(stored, planned)?;
        let hash = applied(planned)?;
        (!differences.is_empty()).then_some(Self { hash, differences })
    }

    /// Whether `live` differs from `planned` only in what admission would change again.
    pub fn explains<T: Serialize + Metadata<Ty = ObjectMeta>>(
        &self,
        live: &T,
        planned: &T,
    ) -> bool {
        applied(planned).as_deref() == Some(&self.hash)
            && differences(live, planned).is_some_and(|found| found == self.differences)
    }

    /// Like [`Self::explains`], for the part of the object whose paths begin with `path`.
    pub(super) fn explains_part<T: Serialize>(&self, path: &str, live: &T, planned: &T) -> bool {
        let Some(found) = differences(live, planned) else {
            return false;
        };
        let known = self.differences.iter().filter_map(|(at, value)| {
            let at = at.strip_prefix(path)?.strip_prefix('.')?;
            Some((at.to_owned(), value.clone()))
        });
        found == known.collect()
    }

    /// The paths of the changed fields.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.differences.keys().map(String::as_str)
    }
}

/// How `live` differs from `planned`; `None` if a value cannot be written as JSON.
fn differences<T: Serialize>(live: &T, planned: &T) -> Option<Differences> {
    let (live, planned) = (
        serde_json::to_value(live).ok()?,
        serde_json::to_value(planned).ok()?,
    );
    let mut found = Differences::new();
    let root = Path {
        parent: None,
        name: "",
        key: String::new(),
    };
    compare(&live, &planned, false, &root, &mut found);
    Some(found)
}

/// Maps that server-side apply treats as one value: an added field changes their meaning.
const ATOMIC: [&str; 3] = ["selector", "nodeSelector", "labelSelector"];

/// The fields by which server-side apply identifies the members of the list named `list`: others
/// may add members (a sidecar, a variable) and order them differently. `None` for a list that
/// server-side apply treats as one value.
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

/// The path of a value. It is formatted only if something differs.
struct Path<'a> {
    parent: Option<&'a Self>,
    /// The field; empty at the root and for the member of a list.
    name: &'a str,
    /// Which member of a list.
    key: String,
}

impl Path<'_> {
    fn field<'a>(&'a self, name: &'a str) -> Path<'a> {
        Path {
            parent: Some(self),
            name,
            key: String::new(),
        }
    }

    /// Whether this field, or one that contains it, is one of [`ATOMIC`].
    fn is_atomic(&self) -> bool {
        ATOMIC.contains(&self.name) || self.parent.is_some_and(Self::is_atomic)
    }

    fn member(&self, key: String) -> Path<'_> {
        Path {
            parent: Some(self),
            name: "",
            key,
        }
    }
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(parent) = self.parent else {
            return Ok(());
        };
        parent.fmt(f)?;
        if self.name.is_empty() {
            return write!(f, "[{}]", self.key);
        }
        if parent.parent.is_some() {
            f.write_str(".")?;
        }
        f.write_str(self.name)
    }
}

/// Collects the paths at which `live` is not as `planned`. `amounts` is true below a field
/// whose quantities the API server rewrites.
fn compare(live: &Value, planned: &Value, amounts: bool, path: &Path<'_>, found: &mut Differences) {
    match (live, planned) {
        (Value::Object(live), Value::Object(planned)) => {
            let has_more = || {
                let mut live = live.iter();
                live.any(|(name, value)| !planned.contains_key(name) && !is_empty(value))
            };
            if path.is_atomic() && has_more() {
                found.insert(path.to_string(), Some(Value::Object(live.clone())));
                return;
            }
            for (name, planned) in planned {
                let amounts = amounts
                    || matches!(
                        name.as_str(),
                        "requests" | "limits" | "sizeLimit" | "divisor"
                    );
                let path = path.field(name);
                match live.get(name) {
                    Some(live) => compare(live, planned, amounts, &path, found),
                    None if is_empty(planned) => {}
                    None => drop(found.insert(path.to_string(), None)),
                }
            }
        }
        (Value::Array(live), Value::Array(planned)) => {
            if let Some(keys) = keys(path.name) {
                for planned in planned {
                    let same = |live: &&Value| keys.iter().all(|key| live[key] == planned[key]);
                    let words = keys.iter().map(|key| planned[key].as_str().unwrap_or("?"));
                    let path = path.member(words.collect::<Vec<_>>().join(" "));
                    match live.iter().find(same) {
                        Some(live) => compare(live, planned, amounts, &path, found),
                        None => drop(found.insert(path.to_string(), None)),
                    }
                }
            } else if live.len() == planned.len() {
                for (index, (live, planned)) in live.iter().zip(planned).enumerate() {
                    let path = path.member(index.to_string());
                    compare(live, planned, amounts, &path, found);
                }
            } else {
                found.insert(path.to_string(), Some(Value::Array(live.clone())));
            }
        }
        (Value::String(live), Value::String(planned))
            if amounts && stored(live).is_some() && stored(live) == stored(planned) => {}
        (live, planned) if live == planned || is_empty(live) && is_empty(planned) => {}
        (live, _) => drop(found.insert(path.to_string(), Some(live.clone()))),
    }
}

/// Whether an absent field would mean the same as this value.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// A quantity as the API server stores it: in thousandths, rounded up.
fn stored(text: &str) -> Option<i128> {
    const THOUSANDTH: i128 = 1_000_000;
    let amount = amount(text)?;
    Some(amount.div_euclid(THOUSANDTH) + i128::from(amount.rem_euclid(THOUSANDTH) > 0))
}

/// A quantity in billionths; `None` if it is not a quantity, or too large for `i128`.
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
    fn what_others_add_to_keyed_lists_is_not_a_difference() {
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

    fn deployment(
        image: &str,
        replicas: i32,
        extra: &Value,
    ) -> k8s_openapi::api::apps::v1::Deployment {
        let mut object = json!({
            "metadata": {"annotations": {annotation::APPLIED: "h1"}},
            "spec": {
                "replicas": replicas,
                "selector": {},
                "template": {"spec": {"containers": [{"name": "app", "image": image}]}},
            },
        });
        if let Some(extra) = extra.as_object() {
            for (name, value) in extra {
                object["spec"][name] = value.clone();
            }
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_change_by_admission_is_explained_and_a_change_by_others_is_not() {
        let planned = deployment("app:1", 2, &Value::Null);
        assert_eq!(Admitted::of(&planned, &planned), None);
        let defaulted = deployment("app:1", 2, &json!({"paused": false}));
        assert_eq!(Admitted::of(&defaulted, &planned), None, "only added to");
        let mirrored = deployment("mirror/app:1", 2, &Value::Null);
        let admitted = Admitted::of(&mirrored, &planned).unwrap();
        let paths: Vec<&str> = admitted.paths().collect();
        assert_eq!(paths, ["spec.template.spec.containers[app].image"]);
        assert!(admitted.explains(&mirrored, &planned));
        assert!(admitted.explains_part("spec", &mirrored.spec, &planned.spec));
        for others in [
            deployment("app:2", 2, &Value::Null),
            deployment("mirror/app:1", 3, &Value::Null),
        ] {
            assert!(!admitted.explains(&others, &planned));
            assert!(!admitted.explains_part("spec", &others.spec, &planned.spec));
        }
        // Another plan is written in any case.
        let mut other = planned.clone();
        super::super::meta::annotate(&mut other.metadata, annotation::APPLIED, "h2".to_owned());
        assert!(!admitted.explains(&mirrored, &other));
    }

    #[test]
    fn what_admission_removes_is_a_difference() {
        let planned =
            json!({"env": [{"name": "A", "value": "1"}], "args": ["x", "y"], "labels": {"a": "b"}});
        let live = json!({"env": [{"name": "B"}], "args": ["x"]});
        let found = differences::<Value>(&live, &planned).unwrap();
        let found: Vec<String> = found
            .iter()
            .map(|(path, value)| format!("{path} {}", json!(value)))
            .collect();
        assert_eq!(found, ["args [\"x\"]", "env[A] null", "labels null"]);
    }

    #[test]
    fn what_others_add_to_a_selector_is_a_change() {
        let service = |selector: Value| json!({"spec": {"selector": selector}});
        for (planned, live, same) in [
            (json!({"a": "1"}), json!({"a": "1"}), true),
            (json!({"a": "1"}), json!({"a": "1", "b": "2"}), false),
            (json!({}), Value::Null, true),
            (json!({}), json!({"a": "1"}), false),
            (
                json!({"matchLabels": {"a": "1"}}),
                json!({"matchLabels": {"a": "1"}, "matchExpressions": []}),
                true,
            ),
            (
                json!({"matchLabels": {"a": "1"}}),
                json!({"matchLabels": {"a": "1", "b": "2"}}),
                false,
            ),
        ] {
            let (live, planned) = (service(live), service(planned));
            assert_eq!(carries::<Value>(&live, &planned), same, "{live} {planned}");
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
        for (planned, live) in [("1.5m", "2m"), ("0.0001", "1m"), ("0.5", "500m")] {
            let (planned, live) = (json!({"limits": planned}), json!({"limits": live}));
            assert!(carries::<Value>(&live, &planned), "{live} {planned}");
        }
        for (a, b) in [("1", "2"), ("1M", "1Mi"), ("500m", "501m")] {
            assert_ne!(amount(a), amount(b), "{a} {b}");
        }
        assert_eq!(amount("many"), None);
    }
}
