//! From YAML text to the object, with errors that name the place and the cure.
//!
//! JSON is YAML here too. Values are not judged: see `operator/plan`.

use serde::Deserialize;
use serde_saphyr::{Error, MessageFormatter, Options, UserMessageFormatter};

use crate::{API_VERSION, KIND, ScaledApp};

/// Why a text is no `ScaledApp`. Displays as `LINE:COLUMN: FIELD: what and cure`,
/// so that a caller puts the file's name and a colon before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", place(*.at), field(.path))]
pub struct ReadError {
    /// Line and column, from 1; `None` where the text as a whole is meant.
    pub at: Option<(u64, u64)>,
    /// The field, such as `spec.port`; empty where none is meant.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

fn place(at: Option<(u64, u64)>) -> String {
    at.map_or_else(String::new, |(line, column)| format!("{line}:{column}: "))
}

fn field(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    }
}

/// What every object says about itself; the rest is not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Header {
    api_version: String,
    kind: String,
}

impl Header {
    /// Whether it is clearly an object of another kind, and no slip of the pen.
    fn is_other(&self) -> bool {
        !self.kind.is_empty() && !self.api_version.is_empty() && self.kind != KIND
    }
}

/// Fields and values that nothing works on yet, and what to do instead.
const NOT_YET: [(&str, &str); 10] = [
    (
        "h2c",
        "gRPC is not balanced per request yet: write tcp, which hands out connections",
    ),
    (
        "stickiness",
        "not there yet: `algorithm: Hash` keeps a client's address on one pod",
    ),
    ("tls", "not there yet: end TLS in front of the balancers"),
    ("http2", "not there yet: leave it out"),
    ("timeouts", "not there yet: leave it out"),
    ("retries", "not there yet: leave it out"),
    ("externalDns", "not there yet: leave it out"),
    (
        "autoscaling",
        "not there yet: leave it out and use `scaledapp scale`",
    ),
    ("processes", "not there yet: leave it out"),
    (
        "status",
        "written by the operator, never by hand: leave it out",
    ),
];

/// Reads one object.
///
/// # Errors
/// No YAML, another kind of object, several objects, an unknown field, a value
/// of the wrong type. The first of these that is met.
pub fn read(text: &str) -> Result<ScaledApp, ReadError> {
    let header: Header = deserialize(text)?;
    if header.kind != KIND || header.api_version != API_VERSION {
        return Err(ReadError {
            at: None,
            path: String::new(),
            message: format!(
                "holds {}, not a {KIND}: it must begin with `apiVersion: {API_VERSION}` and `kind: {KIND}`",
                described(&header)
            ),
        });
    }
    deserialize(text)
}

/// What a text with any number of objects holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    /// At least one, in their order.
    pub apps: Vec<ScaledApp>,
    /// What else is there, in words, such as `a Service of v1`.
    pub others: Vec<String>,
}

/// Reads every `ScaledApp` of a text: of one document or several (YAML 1.2
/// section 9.2), and the items of a `List`, as `kubectl get -o yaml` prints it.
/// Lines and columns in errors are those of the whole text.
///
/// # Errors
/// As [`read`], of any document; no `ScaledApp` at all; a `List` in which
/// something else is, too.
pub fn read_all(text: &str) -> Result<Objects, ReadError> {
    let documents = documents(text);
    if documents.is_empty() {
        return read(text).map(|app| Objects {
            apps: vec![app],
            others: Vec::new(),
        });
    }
    let (mut apps, mut others) = (Vec::new(), Vec::new());
    let mut refused = None;
    for document in &documents {
        let header: Header = deserialize(document)?;
        if LISTS.contains(&header.kind.as_str()) {
            apps.extend(read_list(document)?);
            continue;
        }
        match read(document) {
            Ok(app) => apps.push(app),
            Err(error) if header.is_other() => {
                others.push(described(&header));
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(error) if apps.is_empty() => Err(error),
        _ => Ok(Objects { apps, others }),
    }
}

const LISTS: [&str; 2] = ["List", "ScaledAppList"];

#[derive(Debug, Deserialize)]
struct List<T> {
    items: Vec<T>,
}

fn read_list(document: &str) -> Result<Vec<ScaledApp>, ReadError> {
    let headers: List<Header> = deserialize(document)?;
    let mut headers = headers.items.iter().enumerate();
    if let Some((index, other)) =
        headers.find(|(_, header)| header.kind != KIND || header.api_version != API_VERSION)
    {
        return Err(ReadError {
            at: None,
            path: format!("items[{index}]"),
            message: format!(
                "holds {}, not a {KIND}: of a List every item must be one, so take it out",
                described(other)
            ),
        });
    }
    let list: List<ScaledApp> = deserialize(document)?;
    Ok(list.items)
}

/// The documents of a text that hold anything, each behind as many empty lines
/// as were before it, so that places in errors are right.
fn documents(text: &str) -> Vec<String> {
    let mut documents = Vec::new();
    let mut document = String::new();
    for line in text.split_inclusive('\n') {
        // At the first column this can be nothing else, not even in a block of text.
        let marker = ["---", "..."]
            .into_iter()
            .find_map(|marker| line.strip_prefix(marker));
        match marker.filter(|rest| rest.chars().next().is_none_or(char::is_whitespace)) {
            Some(rest) => {
                let lines = document.matches('\n').count();
                documents.push(std::mem::replace(&mut document, "\n".repeat(lines)));
                document.push_str("   ");
                document.push_str(rest);
            }
            None => document.push_str(line),
        }
    }
    documents.push(document);
    documents.retain(|document| document.lines().any(holds_something));
    documents
}

fn holds_something(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with(['#', '%'])
}

fn described(header: &Header) -> String {
    match (header.api_version.as_str(), header.kind.as_str()) {
        ("", "") => "an object without apiVersion and kind".to_owned(),
        ("", kind) => format!("a {kind} without apiVersion"),
        (version, "") => format!("an object of {version} without kind"),
        (version, kind) => format!("a {kind} of {version}"),
    }
}

fn deserialize<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, ReadError> {
    let mut path = String::new();
    let result = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |yaml| {
        serde_path_to_error::deserialize(yaml).map_err(|error| {
            path = error.path().to_string();
            error.into_inner()
        })
    });
    result.map_err(|error| explain(&error, &path))
}

fn options() -> Options {
    serde_saphyr::options! {
        with_snippet: false,
        // What Kubernetes would refuse as a number or a boolean where text is
        // wanted must not work here either.
        no_schema: true,
        strict_booleans: true,
    }
}

fn explain(error: &Error, path: &str) -> ReadError {
    let error = error.without_snippet();
    let location = error.location();
    ReadError {
        at: location.map(|at| (at.line(), at.column())),
        // "." is how the path of the object itself is written, "?" a member
        // that has no name yet.
        path: path
            .trim_end_matches(".?")
            .trim_start_matches('.')
            .to_owned(),
        message: message(error),
    }
}

fn message(error: &Error) -> String {
    let not_yet = |named: &str| NOT_YET.iter().find(|(name, _)| *name == named);
    match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => match not_yet(field) {
            Some((_, cure)) => (*cure).to_owned(),
            None => format!(
                "there is no such field; known here: {}",
                expected.join(", ")
            ),
        },
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => match not_yet(variant) {
            Some((_, cure)) => (*cure).to_owned(),
            None => format!("{variant:?} is none of {}", expected.join(", ")),
        },
        Error::SerdeMissingField { field, .. } => format!("`{field}` is missing"),
        Error::InvalidScalar { .. } => "a whole number is wanted".to_owned(),
        Error::QuotingRequired { value, .. } => {
            format!("text is wanted: write it in quotes, \"{value}\"")
        }
        Error::Unexpected {
            expected: "mapping start",
            ..
        } => "fields are wanted, such as {name: value}".to_owned(),
        Error::Unexpected {
            expected: "sequence start",
            ..
        } => "a list is wanted, such as [a, b]".to_owned(),
        Error::MultipleDocuments { .. } => {
            "one object per file: take what follows the `---` into a file of its own".to_owned()
        }
        other => UserMessageFormatter.format_message(other).into_owned(),
    }
}
