//! Variables in the texts of a Compose file: `$NAME`, `${NAME}`, and the forms with a default, an
//! alternative or an error (Compose specification, "Interpolation"). `$$` stands for one `$`.

use super::super::tree::Node;

/// Replaces the variables in all values of a file. Returns the paths at which a variable is not
/// set and has no default, with its name; it is replaced by nothing, as Compose does.
pub(super) fn file(file: &mut Node, variables: &[(String, String)]) -> Vec<(String, String)> {
    let mut unset = Vec::new();
    file.for_each_text("", &mut |path, text| {
        let mut missing = Vec::new();
        *text = replaced(text, variables, &mut missing);
        unset.extend(missing.into_iter().map(|name| (path.to_owned(), name)));
    });
    unset
}

fn replaced(text: &str, variables: &[(String, String)], missing: &mut Vec<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((inside, after)) = rest.strip_prefix('{').and_then(braced) {
            out.push_str(&expression(inside, variables, missing));
            rest = after;
        } else {
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            if name.is_empty() {
                out.push('$');
            } else {
                out.push_str(&expression(name, variables, missing));
            }
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// What is between braces, and what follows the closing one. Braces may be nested.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    for (index, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[..index], &text[index + 1..]));
        }
    }
    None
}

/// The value of `NAME`, `NAME:-default`, `NAME:+other` or `NAME:?message`, each also without the
/// colon, which means that an empty value counts as set.
fn expression(inside: &str, variables: &[(String, String)], missing: &mut Vec<String>) -> String {
    let end = inside
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(inside.len());
    let (name, operation) = inside.split_at(end);
    let value = variables.iter().rev().find(|(known, _)| known == name);
    let value = value.map(|(_, value)| value.as_str());
    let (operation, empty_counts) = match operation.strip_prefix(':') {
        Some(operation) => (operation, false),
        None => (operation, true),
    };
    let is_set = value.is_some_and(|value| empty_counts || !value.is_empty());
    if let Some(default) = operation.strip_prefix('-') {
        return match value {
            Some(value) if is_set => value.to_owned(),
            _ => replaced(default, variables, missing),
        };
    }
    if let Some(other) = operation.strip_prefix('+') {
        return if is_set {
            replaced(other, variables, missing)
        } else {
            String::new()
        };
    }
    match value {
        Some(value) if is_set || !operation.starts_with('?') => value.to_owned(),
        _ => {
            missing.push(name.to_owned());
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_variable_is_replaced() {
        let variables =
            [("A", "1"), ("E", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        for (text, expected, missing) in [
            ("a$A-${A}b", "a1-1b", &[][..]),
            ("${X:-d}${X-d}${E:-d}${E-d}", "ddd", &[]),
            ("${X:-${Y:-deep}}", "deep", &[]),
            ("${A:+yes}${X:+yes}${E+yes}", "yesyes", &[]),
            ("$$A $ 5$", "$A $ 5$", &[]),
            ("${X}", "", &["X"]),
            ("${X:?give X}${E:?no}", "", &["X", "E"]),
            ("${broken", "${broken", &[]),
            ("http://h:${P:-80}/{id}", "http://h:80/{id}", &[]),
        ] {
            let mut names = Vec::new();
            assert_eq!(replaced(text, &variables, &mut names), expected, "{text}");
            assert_eq!(names, missing, "{text}");
        }
    }
}
