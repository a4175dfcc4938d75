//! What a bundle leaves out of objects and of lines: whatever may be a secret, without asking what
//! it is. Pure.

use serde_json::Value;

/// What stands in place of something left out.
const LEFT_OUT: &str = "[left out]";

/// Removes from an object: Secrets' and ConfigMaps' data, the values of environment variables, the
/// last applied configuration, managed fields, and users in URLs.
pub(crate) fn object(value: &mut Value) {
    if let Value::Object(map) = value {
        let kind = map
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if kind == "Secret" || kind == "ConfigMap" {
            for field in ["data", "stringData", "binaryData"] {
                if let Some(Value::Object(data)) = map.get_mut(field) {
                    data.values_mut().for_each(|value| *value = LEFT_OUT.into());
                }
            }
        }
        if let Some(Value::Object(meta)) = map.get_mut("metadata") {
            meta.remove("managedFields");
            if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
                // The pinned template is a whole pod, with its variables, as text.
                if annotations.contains_key("scaledapp.io/template") {
                    annotations.insert("scaledapp.io/template".to_owned(), LEFT_OUT.into());
                }
            }
        }
    }
    below(value);
}

fn below(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("env", Value::Array(variables)) => variables.iter_mut().for_each(variable),
                    // Flags and commands may hold passwords as well.
                    ("command" | "args", Value::Array(words)) => {
                        for word in words.iter_mut() {
                            if let Value::String(text) = word {
                                *text = flag(text);
                            }
                        }
                    }
                    (_, value) => below(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(below),
        Value::String(text) => *text = line(text),
        _ => {}
    }
}

fn variable(variable: &mut Value) {
    if let Value::Object(variable) = variable
        && let Some(value) = variable.get_mut("value")
    {
        *value = LEFT_OUT.into();
    }
}

/// A word of a command line: the value of a flag whose name sounds like a secret is left out.
fn flag(word: &str) -> String {
    match word.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={LEFT_OUT}"),
        _ => line(word),
    }
}

/// Whether the name of a field, variable or header sounds like a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [
        "authorization",
        "cookie",
        "password",
        "passwd",
        "secret",
        "token",
        "api-key",
        "api_key",
        "apikey",
        "credential",
        "private-key",
        "private_key",
        "x-auth",
        "session",
    ]
    .iter()
    .any(|word| name.contains(word))
}

/// A line of text without users in URLs, and without the value of a header-like part (`Name:
/// value`, `name=value`, `"name":"value"`) whose name sounds like a secret.
pub(crate) fn line(text: &str) -> String {
    let text = urls(text);
    let mut shown = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find([':', '=']) {
        let (before, after) = rest.split_at(at);
        let name_end = before.trim_end_matches(['"', '\'', ' ']);
        let begin = name_end.rfind(|it: char| !(it.is_ascii_alphanumeric() || "-_.".contains(it)));
        let begin = begin.map_or(0, |at| {
            at + name_end[at..].chars().next().map_or(1, char::len_utf8)
        });
        let name = &name_end[begin..];
        shown += before;
        shown.push_str(&after[..1]);
        rest = &after[1..];
        if !name.is_empty() && is_secret(name) {
            let (kept, left) = value(rest, &after[..1]);
            shown += kept;
            shown += LEFT_OUT;
            rest = left;
        }
    }
    shown + rest
}

/// Splits the value of a secret from what follows it: a quoted one ends with its quote, a header's
/// with the line, another one with a space or a separator. The first part is what stands before it.
fn value<'a>(rest: &'a str, separator: &str) -> (&'a str, &'a str) {
    let begin = rest.len() - rest.trim_start_matches(' ').len();
    let (spaces, rest) = rest.split_at(begin);
    for quote in ['"', '\''] {
        if let Some(inner) = rest.strip_prefix(quote) {
            let mut escaped = false;
            let end = inner.find(|it: char| {
                let ends = it == quote && !escaped;
                escaped = it == '\\' && !escaped;
                ends
            });
            return (spaces, end.map_or("", |end| &inner[end + 1..]));
        }
    }
    let ends: &[char] = match separator {
        ":" => &['\n', '\r'],
        _ => &[' ', '&', ';', ',', '\n', '\r'],
    };
    let end = rest.find(ends).unwrap_or(rest.len());
    (spaces, &rest[end..])
}

/// Text without `user:password@` in URLs.
fn urls(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown += before;
        shown += "://";
        let end = after
            .find(|it: char| it == '/' || it == '?' || it == '#' || it == '"' || it.is_whitespace())
            .unwrap_or(after.len());
        let (authority, following) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                shown += LEFT_OUT;
                shown.push('@');
                shown += host;
            }
            None => shown += authority,
        }
        rest = following;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_that_may_be_a_secret_is_in_an_object() {
        let mut app = json!({
            "kind": "ScaledApp",
            "metadata": {"name": "shop", "managedFields": [1], "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "hush", "team": "a",
                "scaledapp.io/template": "{\"env\": \"hush\"}",
            }},
            "spec": {
                "command": ["serve", "--password=hush", "--url=http://me:hush@db/x"],
                "env": [{"name": "A", "value": "hush"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s"}}}],
                "podTemplate": {"spec": {"containers": [{"env": [{"name": "C", "value": "hush"}]}]}},
            },
        });
        object(&mut app);
        let text = app.to_string();
        assert!(!text.contains("hush"), "{text}");
        for kept in [
            "\"team\"",
            "secretKeyRef",
            "serve",
            "@db/x",
            "\"name\":\"A\"",
        ] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        let mut secret = json!({"kind": "Secret", "data": {"key": "aHVzaA=="}});
        object(&mut secret);
        assert_eq!(secret, json!({"kind": "Secret", "data": {"key": LEFT_OUT}}));
    }

    #[test]
    fn lines_lose_headers_and_users() {
        for (text, expected) in [
            ("Authorization: Bearer abc def", "Authorization: [left out]"),
            ("GET / cookie=abc; x=1", "GET / cookie=[left out]; x=1"),
            (
                r#"{"set-cookie":"a\"b","x":1}"#,
                r#"{"set-cookie":[left out],"x":1}"#,
            ),
            (
                "connect postgres://me:pw@db:5432/x ok",
                "connect postgres://[left out]@db:5432/x ok",
            ),
            ("https://example.test/a?b", "https://example.test/a?b"),
            ("time: 10:00, status=200", "time: 10:00, status=200"),
            ("DB_PASSWORD=hunter2 next", "DB_PASSWORD=[left out] next"),
            ("é: token='x y' z", "é: token=[left out] z"),
        ] {
            assert_eq!(line(text), expected);
        }
    }
}
