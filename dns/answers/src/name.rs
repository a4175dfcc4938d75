//! Domain names: which texts are valid, and when two names are equal (RFC 1035 section 2.3;
//! RFC 4343: letter case is ignored).

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// Longest name on the wire in bytes, with length bytes and root label (RFC 1035 2.3.4).
pub(crate) const MAX_NAME: usize = 255;
/// Longest label in bytes (RFC 1035 2.3.4).
pub(crate) const MAX_LABEL: usize = 63;

/// A domain name below the root, in lower case.
///
/// It is kept in wire form (length-prefixed labels, ended by the root label), so that the name
/// of a query can be looked up without converting it to text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The root, or an empty text.
    #[error("{0:?} names the root: give a name such as apps.example.com")]
    Root(String),
    /// Two dots in a row, or one at the start.
    #[error(
        "{0:?} has an empty label: remove a dot at the start or the second of two dots in a row"
    )]
    EmptyLabel(String),
    /// A label over 63 bytes.
    #[error("{0:?} has a label of more than 63 characters")]
    LongLabel(String),
    /// Over 255 bytes on the wire.
    #[error("{0:?} is longer than 253 characters")]
    Long(String),
    /// A character outside letters, digits, hyphen and underscore.
    #[error("{0:?} contains {1:?}: use only letters, digits, '-' and '_' between the dots")]
    Character(String, char),
}

impl Name {
    /// The labels in wire form, ended by the root label's zero byte.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// Whether the name is `ancestor` or lies below it.
    pub fn is_within(&self, ancestor: &Self) -> bool {
        prefix_length(&self.0, &ancestor.0).is_some()
    }

    /// The name without its first label; `None` for a top-level domain.
    pub fn parent(&self) -> Option<Self> {
        let rest = &self.0[1 + usize::from(self.0[0])..];
        (rest.len() > 1).then(|| Self(rest.into()))
    }
}

/// The number of bytes of `name` before its suffix `ancestor`, or `None` if `name` is neither
/// `ancestor` nor below it. Both are valid lower-case wire forms.
pub(crate) fn prefix_length(name: &[u8], ancestor: &[u8]) -> Option<usize> {
    let prefix = name.len().checked_sub(ancestor.len())?;
    let mut label = 0;
    // The suffix must start at the start of a label.
    while label < prefix {
        label += 1 + usize::from(name[label]);
    }
    (label == prefix && name[prefix..] == *ancestor).then_some(prefix)
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// Parses a name such as `hello.apps.local`, with or without the trailing dot.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let owned = || text.to_owned();
        let labels = text.strip_suffix('.').unwrap_or(text);
        if labels.is_empty() {
            return Err(NameError::Root(owned()));
        }
        let mut wire = Vec::with_capacity(labels.len() + 2);
        for label in labels.split('.') {
            if let Some(character) = label
                .chars()
                .find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'))
            {
                return Err(NameError::Character(owned(), character));
            }
            match label.len() {
                0 => return Err(NameError::EmptyLabel(owned())),
                1..=MAX_LABEL => {}
                _ => return Err(NameError::LongLabel(owned())),
            }
            wire.push(label.len() as u8);
            wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        wire.push(0);
        if wire.len() > MAX_NAME {
            return Err(NameError::Long(owned()));
        }
        Ok(Self(wire.into()))
    }
}

impl fmt::Display for Name {
    /// Writes the name with the trailing dot.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &*self.0;
        while let Some((length, after)) = rest.split_first().filter(|(length, _)| **length > 0) {
            let (label, next) = after.split_at(usize::from(*length));
            write!(f, "{}.", label.escape_ascii())?;
            rest = next;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_reads_the_same_with_and_without_closing_dot_and_in_any_case() {
        for text in ["hello.apps.local", "hello.apps.local.", "Hello.APPS.local."] {
            assert_eq!(name(text).as_wire(), b"\x05hello\x04apps\x05local\0");
            assert_eq!(name(text).to_string(), "hello.apps.local.");
        }
    }

    #[test]
    fn an_invalid_name_is_refused_with_the_reason() {
        let label = "a".repeat(64);
        let long = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(62),
        ]
        .join(".");
        for (text, part) in [
            ("", "names the root"),
            (".", "names the root"),
            (".local", "empty label"),
            ("a..local", "empty label"),
            ("a.local..", "empty label"),
            (label.as_str(), "more than 63"),
            (long.as_str(), "longer than 253"),
            ("a b.local", "contains ' '"),
            ("*.local", "contains '*'"),
            ("grün.local", "contains 'ü'"),
        ] {
            let message = text.parse::<Name>().unwrap_err().to_string();
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }

    #[test]
    fn a_name_of_253_characters_is_the_longest() {
        let text = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61),
        ]
        .join(".");
        assert_eq!(text.len(), 253);
        assert_eq!(name(&text).as_wire().len(), MAX_NAME);
    }

    #[test]
    fn a_name_lies_within_its_ancestors_only_at_label_borders() {
        for (below, above, expected) in [
            ("hello.apps.local", "apps.local", true),
            ("apps.local", "apps.local", true),
            ("local", "apps.local", false),
            ("myapps.local", "apps.local", false),
            ("x.apps.locale", "apps.local", false),
        ] {
            assert_eq!(
                name(below).is_within(&name(above)),
                expected,
                "{below} in {above}"
            );
        }
    }

    #[test]
    fn bytes_inside_a_label_are_not_taken_for_a_suffix() {
        // The bytes `\x01b` are part of the one label here.
        assert_eq!(prefix_length(b"\x03a\x01b\0", b"\x01b\0"), None);
    }

    #[test]
    fn parents_end_below_the_root() {
        let parent = name("hello.apps.local").parent().unwrap();
        assert_eq!(parent, name("apps.local"));
        assert_eq!(name("local").parent(), None);
    }
}
