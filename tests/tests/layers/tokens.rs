//! Reads the tokens of one module: the items that it defines, its submodules, and the paths in its
//! code. Test code is ignored.
//!
//! `graph` decides where a path leads.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// The content of one module.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The items that the module defines itself.
    pub(crate) items: BTreeSet<String>,
    /// The submodules; those without a body are files.
    pub(crate) modules: Vec<(String, Option<TokenStream>)>,
    /// The paths after `use`, each with its local name; `path::*` has none.
    pub(crate) uses: Vec<(Option<String>, Vec<String>)>,
    /// All other paths.
    pub(crate) paths: BTreeSet<Vec<String>>,
}

/// Keywords that are followed by the name of an item.
const NAMING: [&str; 8] = [
    "struct", "enum", "union", "trait", "type", "fn", "const", "static",
];

/// Items that end with a semicolon, even if they contain braces.
const UNBRACED: [&str; 4] = ["use", "type", "const", "static"];

impl Found {
    /// Reads `tokens`. Items belong to the module only if they are at its top level (`is_top`).
    pub(crate) fn walk(&mut self, tokens: TokenStream, is_top: bool) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = self.step(&tokens, at, is_top);
        }
    }

    /// Reads the construct at `at`. Returns the index of the next one.
    fn step(&mut self, tokens: &[TokenTree], at: usize, is_top: bool) -> usize {
        match &tokens[at] {
            TokenTree::Group(group) if is_for_tests(tokens, at, group) => {
                past_item(tokens, at + 1).unwrap_or(at + 1)
            }
            TokenTree::Group(group) => {
                self.walk(group.stream(), false);
                at + 1
            }
            TokenTree::Literal(literal) => {
                self.quoted(&literal.to_string());
                at + 1
            }
            TokenTree::Ident(word) => self.word(&word.to_string(), tokens, at, is_top),
            TokenTree::Punct(_) => at + 1,
        }
    }

    fn word(&mut self, word: &str, tokens: &[TokenTree], at: usize, is_top: bool) -> usize {
        let next = tokens.get(at + 1);
        match (word, next) {
            // `impl Trait + use<'a>` imports nothing.
            ("use", Some(next)) if !is(next, '<') => {
                let rest = &tokens[at + 1..];
                let end = rest.iter().position(|token| is(token, ';'));
                let end = end.unwrap_or(rest.len());
                self.tree(&[], &rest[..end]);
                return at + 1 + end;
            }
            ("mod", Some(TokenTree::Ident(name))) if is_top => {
                let body = match tokens.get(at + 2) {
                    Some(TokenTree::Group(body)) => Some(body.stream()),
                    _ => None,
                };
                self.modules.push((name.to_string(), body));
                return at + 3;
            }
            ("macro_rules", Some(_)) if is_top => {
                if let Some(TokenTree::Ident(name)) = tokens.get(at + 2) {
                    self.items.insert(name.to_string());
                }
                return at + 3;
            }
            (_, Some(TokenTree::Ident(name))) if is_top && NAMING.contains(&word) => {
                self.items.insert(name.to_string());
            }
            _ => {}
        }
        let (path, end) = path(tokens, at);
        // A name after `>::` or `.` is not a path of this module.
        let is_first = at == 0 || !(is(&tokens[at - 1], ':') || is(&tokens[at - 1], '.'));
        let is_type = at == 1 || at > 1 && !is(&tokens[at - 2], ':');
        if path.len() > 1 && (is_first || is_type && is(&tokens[at - 1], ':')) {
            self.paths.insert(path);
        }
        end
    }

    /// Reads a path in a string of an attribute (`#[serde(with = "crate::…")]`).
    fn quoted(&mut self, literal: &str) {
        let text = literal.trim_matches('"');
        let is_path = ["crate::", "super::", "self::"]
            .iter()
            .any(|start| text.starts_with(start));
        if is_path {
            self.paths
                .insert(text.split("::").map(str::to_owned).collect());
        }
    }

    /// Reads the paths of one `use`, relative to `above`.
    fn tree(&mut self, above: &[String], tokens: &[TokenTree]) {
        let (path, end) = path(tokens, 0);
        let path = [above, &path].concat();
        match tokens.get(end) {
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<_> = group.stream().into_iter().collect();
                for tree in inner.split(|token| is(token, ',')) {
                    if !tree.is_empty() {
                        self.tree(&path, tree);
                    }
                }
            }
            Some(star) if is(star, '*') => self.uses.push((None, path)),
            other => {
                let name = match (other, tokens.get(end + 1)) {
                    (Some(_), Some(TokenTree::Ident(name))) => Some(name.to_string()),
                    _ => path.last().cloned(),
                };
                let is_module = path.last().is_some_and(|last| last == "self");
                let keep = path.len() - usize::from(is_module && path.len() > 1);
                let path = path[..keep].to_vec();
                let name = name.filter(|name| name != "self");
                let name = name.or_else(|| path.last().cloned());
                self.uses.push((name, path));
            }
        }
    }
}

/// Reads the path at `at`. Returns the path, and the index after it and after a `::` at its end.
fn path(tokens: &[TokenTree], mut at: usize) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    while let Some(TokenTree::Ident(name)) = tokens.get(at) {
        path.push(name.to_string());
        at += 1;
        let colons = tokens.get(at..at + 2);
        if !colons.is_some_and(|two| two.iter().all(|one| is(one, ':'))) {
            break;
        }
        at += 2;
    }
    (path, at)
}

fn is(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

/// Whether the group at `at` is the rest of `#[cfg(test)]`.
fn is_for_tests(tokens: &[TokenTree], at: usize, group: &Group) -> bool {
    let is_attribute =
        group.delimiter() == Delimiter::Bracket && at > 0 && is(&tokens[at - 1], '#');
    let text: String = group.stream().to_string();
    let text: String = text.split_whitespace().collect();
    is_attribute && (text == "cfg(test)" || text.starts_with("cfg(all(test,"))
}

/// The index after the item at `at`; `None` if no item begins there.
fn past_item(tokens: &[TokenTree], mut at: usize) -> Option<usize> {
    while tokens.get(at).is_some_and(|token| is(token, '#')) {
        at += 2;
    }
    let words = tokens[at..].iter().take_while(|token| !is(token, ';'));
    let words: Vec<_> = words.map(ToString::to_string).collect();
    let keyword = words.iter().find(|word| {
        UNBRACED.contains(&word.as_str())
            || ["fn", "mod", "impl", "struct", "enum", "trait"].contains(&word.as_str())
    })?;
    let is_unbraced =
        UNBRACED.contains(&keyword.as_str()) && !words.iter().any(|word| word == "fn");
    let is_end = |token: &TokenTree| match token {
        TokenTree::Group(group) => !is_unbraced && group.delimiter() == Delimiter::Brace,
        token => is(token, ';'),
    };
    let end = tokens[at..].iter().position(is_end)?;
    Some(at + end + 1)
}
