//! A value as YAML and JSON have them, with the keys of mappings in their order. It decides
//! nothing about meaning.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

/// A value. Paths in it are written as in `spec.containers[0].image`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Node {
    #[default]
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Node {
    pub(super) fn text_of(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn texts<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Self {
        Self::List(words.into_iter().map(Self::text_of).collect())
    }

    pub(super) fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        let entries = entries.into_iter();
        Self::Map(entries.map(|(key, node)| (key.to_owned(), node)).collect())
    }

    /// The member of this name, if it is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let entry = self.entries().iter().find(|(name, _)| name == key)?;
        (entry.1 != Self::Null).then_some(&entry.1)
    }

    /// The value that these keys lead to.
    pub(super) fn at(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The members of a mapping; none if it is something else.
    pub(super) fn entries(&self) -> &[(String, Self)] {
        match self {
            Self::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The members of a list; none if it is something else.
    pub(super) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// A scalar as text; `None` for a list or a mapping.
    pub(super) fn scalar(&self) -> Option<String> {
        match self {
            Self::Null => Some(String::new()),
            Self::Bool(value) => Some(value.to_string()),
            Self::Number(number) => Some(number.to_string()),
            Self::Text(text) => Some(text.clone()),
            Self::List(_) | Self::Map(_) => None,
        }
    }

    /// The scalar that these keys lead to.
    pub(super) fn text(&self, keys: &[&str]) -> Option<String> {
        self.at(keys)?.scalar()
    }

    /// A whole number, also one that is written as text.
    pub(super) fn whole(&self) -> Option<i64> {
        match self {
            Self::Number(number) => number.as_i64(),
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// Sets the member that these keys lead to, and makes the mappings on the way.
    pub(super) fn set(&mut self, keys: &[&str], value: Self) {
        let Some((key, rest)) = keys.split_first() else {
            *self = value;
            return;
        };
        if !matches!(self, Self::Map(_)) {
            *self = Self::Map(Vec::new());
        }
        let Self::Map(entries) = self else { return };
        let index = entries.iter().position(|(name, _)| name == key);
        let index = index.unwrap_or_else(|| {
            entries.push(((*key).to_owned(), Self::Null));
            entries.len() - 1
        });
        entries[index].1.set(rest, value);
    }

    /// Removes a member of a mapping.
    pub(super) fn remove(&mut self, key: &str) -> Option<Self> {
        let Self::Map(entries) = self else {
            return None;
        };
        let index = entries.iter().position(|(name, _)| name == key)?;
        Some(entries.remove(index).1)
    }

    /// Appends to the list that these keys lead to, and makes it if it is not there.
    pub(super) fn push(&mut self, keys: &[&str], item: Self) {
        let mut items = self
            .at(keys)
            .map_or(Vec::new(), |list| list.items().to_vec());
        items.push(item);
        self.set(keys, Self::List(items));
    }

    /// The paths of all scalars, and of empty lists and mappings, below `path`.
    pub(super) fn leaves(&self, path: &str) -> Vec<String> {
        match self {
            Self::List(items) if !items.is_empty() => {
                let items = items.iter().enumerate();
                items
                    .flat_map(|(index, item)| item.leaves(&format!("{path}[{index}]")))
                    .collect()
            }
            Self::Map(entries) if !entries.is_empty() => {
                let entries = entries.iter();
                entries
                    .flat_map(|(key, node)| node.leaves(&join(path, key)))
                    .collect()
            }
            _ => vec![path.to_owned()],
        }
    }

    /// Changes every text in it.
    pub(super) fn for_each_text(&mut self, path: &str, change: &mut impl FnMut(&str, &mut String)) {
        match self {
            Self::Text(text) => change(path, text),
            Self::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    item.for_each_text(&format!("{path}[{index}]"), change);
                }
            }
            Self::Map(entries) => {
                for (key, node) in entries {
                    node.for_each_text(&join(path, key), change);
                }
            }
            _ => {}
        }
    }
}

impl From<i64> for Node {
    fn from(number: i64) -> Self {
        Self::Number(number.into())
    }
}

/// The path of a member.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Node, D::Error> {
                Node::deserialize(inner)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Number(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Number(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(match Number::from_f64(value) {
                    Some(number) => Node::Number(number),
                    None => Node::Text(value.to_string()),
                })
            }
            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries: Vec<(String, Node)> = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, node) in entries {
                    map.serialize_entry(key, node)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_keep_their_order_and_anchors_are_followed() {
        let text = "z: &base {b: 1, a: [x, 2.5]}\ny: {<<: *base, b: 2}\n80: ~\n";
        let node: Node = serde_saphyr::from_str(text).unwrap();
        let keys: Vec<&str> = node.entries().iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["z", "y", "80"]);
        assert_eq!(node.at(&["y", "b"]).and_then(Node::whole), Some(2));
        assert_eq!(
            node.get("z").unwrap().leaves("z"),
            ["z.b", "z.a[0]", "z.a[1]"]
        );
        assert_eq!(node.get("80"), None);
        let json = serde_json::to_string(&node).unwrap();
        assert!(json.starts_with(r#"{"z":{"b":1,"a":["x",2.5]}"#), "{json}");
    }

    #[test]
    fn members_are_set_and_lists_grow() {
        let mut node = Node::Null;
        node.set(&["a", "b"], 1.into());
        node.push(&["a", "c"], Node::text_of("x"));
        node.push(&["a", "c"], Node::text_of("y"));
        assert_eq!(
            serde_json::to_string(&node).unwrap(),
            r#"{"a":{"b":1,"c":["x","y"]}}"#
        );
    }
}
