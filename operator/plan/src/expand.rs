//! `$(NAME)` in environment values, command and arguments.
//!
//! The rule is that of Kubernetes (Container API, `command`, `args`, `env`): a reference to a
//! variable that is not defined is not changed, and `$$` stands for one `$`. The same rule applies
//! here, so that an object means the same on one machine as in a cluster.

use crate::Environment;

/// `text` with the references to `variables` resolved.
pub(crate) fn expand(text: &str, variables: &Environment) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((value, after)) = reference(rest, variables) {
            out.push_str(value);
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The value that `(NAME)…` stands for, and what follows.
fn reference<'a>(text: &'a str, variables: &'a Environment) -> Option<(&'a str, &'a str)> {
    let (name, after) = text.strip_prefix('(')?.split_once(')')?;
    // Of two variables with one name the last one counts, as in the environment of a process.
    let (_, value) = variables.iter().rev().find(|(known, _)| known == name)?;
    Some((value, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_references_are_resolved_and_everything_else_stays() {
        let variables = vec![
            ("A".to_owned(), "1".to_owned()),
            ("B".to_owned(), "$(A)".to_owned()),
        ];
        for (text, expected) in [
            ("plain", "plain"),
            ("$(A)-$(B)", "1-$(A)"),
            ("$(C) $(date) $A ${A}", "$(C) $(date) $A ${A}"),
            ("$$(A) costs 5$", "$(A) costs 5$"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
            ("ü$(A)ü", "ü1ü"),
        ] {
            assert_eq!(expand(text, &variables), expected, "{text}");
        }
    }
}
