//! Texts in the form that a YAML file, a shell or the name of an object needs, and the words of
//! a shell. It decides nothing about meaning.

/// The words of a text, split as a shell splits them. Nothing is expanded.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, ' ' | '\t' | '\n') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), close) if open == close => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// Escapes a text for fields in which Kubernetes expands `$(NAME)`. A lone `$` stays.
pub(super) fn unexpanded(text: &str) -> String {
    if text.contains("$(") || text.contains("$$") {
        literal(text)
    } else {
        text.to_owned()
    }
}

/// Whether a command needs a shell: it expands, redirects or joins something.
pub(super) fn needs_shell(command: &str) -> bool {
    let signs = ['$', '|', '&', ';', '<', '>', '`', '*', '~', '\n'];
    let is_assignment = |word: &str| {
        word.split_once('=')
            .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
    };
    command.contains(signs) || command.split(' ').next().is_some_and(is_assignment)
}

/// The words that run a command of a Procfile or a script: its own words, or a shell with it.
/// A shell that runs a single program is replaced by it, so that signals reach the program.
pub(super) fn words_of(command: &str) -> Vec<String> {
    if !needs_shell(command) {
        return split(command);
    }
    let joins = ['|', '&', ';', '\n'];
    let first = command.split(' ').next().unwrap_or_default();
    let is_single =
        !command.contains(joins) && !first.contains('=') && first != "cd" && first != "exec";
    let command = if is_single {
        format!("exec {command}")
    } else {
        command.to_owned()
    };
    vec!["sh".to_owned(), "-c".to_owned(), command]
}

/// Escapes `$`, which could begin a reference to a variable, as `$$`.
pub(super) fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// Joins lines, so that a comment does not end early.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Changes a name into one that a Service can have: a lower-case letter, then lower-case letters,
/// digits and hyphens.
pub(super) fn object_name(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let fits = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let mut name: String = lower.chars().map(fits).collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "app-");
    }
    name.truncate(63);
    name.trim_end_matches('-').to_owned()
}

/// A text in the form that YAML reads as the same text.
pub(super) fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./@%+=,:-".contains(c);
    let begins = |c: char| c.is_ascii_alphabetic() || "_./".contains(c);
    let word = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    // `.5` and `.inf` are numbers.
    let number = text
        .strip_prefix('.')
        .is_some_and(|rest| !rest.starts_with('/') && !rest.starts_with('.'));
    if text.starts_with(begins)
        && text.chars().all(plain)
        // A colon at the end would begin a mapping.
        && !text.ends_with(':')
        && !number
        && !word.contains(&text.to_ascii_lowercase().as_str())
    {
        return text.to_owned();
    }
    quoted(text)
}

/// Quotes a text as JSON does, which YAML reads as well.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A word in the form that a POSIX shell passes on unchanged.
pub(super) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+=,-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_quoted_where_they_must_be() {
        for (word, expected) in [
            ("nginx:1.27", "nginx:1.27"),
            ("a:", "\"a:\""),
            ("plain", "plain"),
            ("./a-b_c.js", "./a-b_c.js"),
            ("a b", "\"a b\""),
            ("3000", "\"3000\""),
            ("true", "\"true\""),
            ("Yes", "\"Yes\""),
            ("--flag", "\"--flag\""),
            (".5", "\".5\""),
            ("", "\"\""),
            ("a: b # c", "\"a: b # c\""),
        ] {
            assert_eq!(scalar(word), expected);
        }
        for (word, expected) in [
            ("plain", "plain"),
            ("A=b c", "'A=b c'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("$HOME", "'$HOME'"),
        ] {
            assert_eq!(shell(word), expected);
        }
    }

    #[test]
    fn a_command_gets_a_shell_only_if_it_needs_one() {
        for (command, expected) in [
            ("node server.js", &["node", "server.js"][..]),
            (
                "gunicorn app:app -b 0.0.0.0:$PORT",
                &["sh", "-c", "exec gunicorn app:app -b 0.0.0.0:$PORT"],
            ),
            ("cd web && npm start", &["sh", "-c", "cd web && npm start"]),
            ("A=1 node x", &["sh", "-c", "A=1 node x"]),
            ("node --title='a b' x", &["node", "--title=a b", "x"]),
        ] {
            assert_eq!(words_of(command), expected, "{command}");
        }
    }

    #[test]
    fn names_become_names_of_objects() {
        for (name, expected) in [
            ("api", "api"),
            ("My App", "my-app"),
            ("3d_viewer", "app-3d-viewer"),
            ("--", "app"),
        ] {
            assert_eq!(object_name(name), expected);
        }
        assert!(object_name(&"x".repeat(100)).len() <= 63);
    }

    proptest! {
        #[test]
        fn yaml_reads_back_what_was_meant(word in "\\PC{0,20}|[-+.0-9eExonfa:~]{0,6}") {
            let text = format!("- {}\n", scalar(&word));
            let back: Vec<serde_json::Value> = serde_saphyr::from_str(&text).unwrap();
            prop_assert_eq!(&back[0], &serde_json::Value::from(word));
        }
    }
}
