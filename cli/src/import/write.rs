//! Writes a value as YAML in block style, with comments above fields. It decides how the text
//! looks, not what it says.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::text::{one_line, quoted, scalar};
use super::tree::{Node, join};

/// Comments by the path of the field that they stand above.
pub(super) type Comments = BTreeMap<String, Vec<String>>;

/// A document in YAML.
pub(super) fn yaml(node: &Node, comments: &Comments) -> String {
    let mut text = String::new();
    Writer {
        text: &mut text,
        comments,
    }
    .members(node, "", 0);
    text
}

struct Writer<'a> {
    text: &'a mut String,
    comments: &'a Comments,
}

impl Writer<'_> {
    fn line(&mut self, indent: usize, words: &str) {
        // Writing into a String cannot fail.
        let _infallible = writeln!(self.text, "{:indent$}{words}", "");
    }

    fn comments(&mut self, path: &str, indent: usize) {
        for comment in self.comments.get(path).into_iter().flatten() {
            self.line(indent, &format!("# {}", one_line(comment)));
        }
    }

    fn members(&mut self, node: &Node, path: &str, indent: usize) {
        for (key, value) in node.entries() {
            let path = join(path, key);
            self.comments(&path, indent);
            self.value(&format!("{}:", scalar(key)), value, &path, indent);
        }
    }

    /// A value after `before`, which is a key or the dash of a list. Members of a list are as
    /// far to the right as its key.
    fn value(&mut self, before: &str, value: &Node, path: &str, indent: usize) {
        match value {
            Node::Map(entries) if !entries.is_empty() => {
                self.line(indent, before);
                self.members(value, path, indent + 2);
            }
            Node::List(items) if !items.is_empty() => {
                self.line(indent, before);
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    self.comments(&path, indent);
                    self.item(item, &path, indent);
                }
            }
            other => self.line(indent, &format!("{before} {}", plain(other))),
        }
    }

    fn item(&mut self, item: &Node, path: &str, indent: usize) {
        match item {
            Node::Map(entries) if !entries.is_empty() => {
                let begin = self.text.len();
                self.members(item, path, indent + 2);
                let first = self.text[begin..].lines().next().unwrap_or_default();
                if first.trim_start().starts_with('#') {
                    // A dash in front of a comment would be hard to read.
                    let dash = format!("{:indent$}-\n", "");
                    self.text.insert_str(begin, &dash);
                } else {
                    self.text
                        .replace_range(begin + indent..=begin + indent, "-");
                }
            }
            Node::List(items) if !items.is_empty() => {
                self.line(indent, "-");
                for (index, item) in items.iter().enumerate() {
                    self.item(item, &format!("{path}[{index}]"), indent + 2);
                }
            }
            other => self.line(indent, &format!("- {}", plain(other))),
        }
    }
}

fn plain(node: &Node) -> String {
    match node {
        Node::Text(text) if text.contains(char::is_whitespace) => quoted(text),
        Node::Text(text) => scalar(text),
        Node::List(_) => "[]".to_owned(),
        Node::Map(_) => "{}".to_owned(),
        Node::Null => "null".to_owned(),
        Node::Bool(_) | Node::Number(_) => node.scalar().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node() -> impl Strategy<Value = Node> {
        let leaf = prop_oneof![
            Just(Node::Null),
            any::<bool>().prop_map(Node::Bool),
            (-1000_i64..100_000).prop_map(Node::from),
            "\\PC{0,12}|[-+.0-9eExonfa:~#]{0,6}|a\nb".prop_map(Node::Text),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Node::List),
                prop::collection::btree_map("[a-z./-]{1,6}|[0-9]{1,2}|true", inner, 0..4)
                    .prop_map(|map| Node::Map(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn yaml_reads_back_what_was_meant(node in node()) {
            let node = Node::map([("root", node)]);
            let text = yaml(&node, &Comments::new());
            let back: Node = serde_saphyr::from_str(&text).unwrap();
            prop_assert_eq!(back, node, "{}", text);
        }
    }

    #[test]
    fn comments_stand_above_their_fields() {
        let node: Node = serde_saphyr::from_str(
            "spec: {image: i, env: [{name: A, value: '1'}, {name: B}], args: [[x]]}\n",
        )
        .unwrap();
        let comment = |words: &str| vec![words.to_owned()];
        let comments = Comments::from([
            ("spec.image".to_owned(), comment("Assumed.")),
            ("spec.env[1]".to_owned(), comment("Empty.")),
        ]);
        assert_eq!(
            yaml(&node, &comments),
            "spec:\n  # Assumed.\n  image: i\n  env:\n  - name: A\n    value: \"1\"\n  # Empty.\n  - name: B\n  \
             args:\n  -\n    - x\n"
        );
    }
}
