//! The difference between two JSON values as a merge patch (RFC 7396): what a page that has the
//! first value must be sent to have the second.
//!
//! Members of objects must not be null, because null removes a member.

use serde_json::{Map, Value};

/// The patch from `old` to `new`; `None` if they are equal.
pub(crate) fn patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut changed = Map::new();
    for (key, value) in after {
        match before.get(key) {
            None => _ = changed.insert(key.clone(), value.clone()),
            Some(known) => {
                if let Some(patch) = patch(known, value) {
                    changed.insert(key.clone(), patch);
                }
            }
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        changed.insert(key.clone(), Value::Null);
    }
    (!changed.is_empty()).then_some(Value::Object(changed))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// RFC 7396 section 2.
    fn merge(target: &mut Value, patch: Value) {
        let Value::Object(members) = patch else {
            *target = patch;
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        for (key, value) in members {
            let known = target.as_object_mut().unwrap();
            if value.is_null() {
                known.remove(&key);
            } else {
                merge(known.entry(key).or_insert(Value::Null), value);
            }
        }
    }

    #[test]
    fn a_patch_leads_from_one_value_to_the_other() {
        let values = [
            json!({}),
            json!({"a": 1, "b": {"c": [1, null], "d": {"e": "x"}}}),
            json!({"a": 1, "b": {"c": [2, null], "d": {}}}),
            json!({"b": {"c": [2, null], "f": {"g": {}}}}),
            json!({"b": 3}),
        ];
        for old in &values {
            assert_eq!(patch(old, old), None);
            for new in &values {
                let mut reached = old.clone();
                if let Some(patch) = patch(old, new) {
                    merge(&mut reached, patch);
                }
                assert_eq!(&reached, new, "from {old}");
            }
        }
    }

    #[test]
    fn only_what_changed_is_sent() {
        let old = json!({"a": {"x": 1, "y": 2}, "b": 1});
        let new = json!({"a": {"x": 1, "y": 3}, "c": 1});
        let expected = json!({"a": {"y": 3}, "b": null, "c": 1});
        assert_eq!(patch(&old, &new), Some(expected));
    }
}
