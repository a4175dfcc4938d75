//! Reads the object from YAML. Errors name the place and the cure.
//!
//! JSON is YAML as well. `operator/plan` checks values; this module does not.

use serde::Deserialize;
use serde_saphyr::{Error, MessageFormatter, Options, UserMessageFormatter};

use crate::{API_VERSION, KIND, ScaledApp};

/// Why a text is not a `ScaledApp`. Displays as `LINE:COLUMN: FIELD: what and cure`;
/// callers put the file's name and a colon in front.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", place(*.at), field(.path))]
pub struct ReadError {
    /// Line and column, from 1; `None` for an error about the whole text.
    pub at: Option<(u64, u64)>,
    /// The field, such as `spec.port`; empty if the error is not about a field.
    pub path: String,
    /// What is wrong, and the cure.
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

/// The fields by which every object names its kind; other fields are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Header {
    api_version: String,
    kind: String,
}

impl Header {
    /// Whether the object is clearly of another kind, not a misspelt `ScaledApp`.
    fn is_other(&self) -> bool {
        !self.kind.is_empty() && !self.api_version.is_empty() && self.kind != KIND
    }
}

/// Fields and values that a user may expect but that are refused, each with what to do instead.
const NOT_YET: [(&str, &str); 6] = [
    (
        "issuerRef",
        "not supported yet: create a cert-manager Certificate with the same secretName as here",
    ),
    ("timeouts", "not supported yet: leave it out"),
    ("retries", "not supported yet: leave it out"),
    ("externalDns", "not supported yet: leave it out"),
    ("processes", "not supported yet: leave it out"),
    (
        "status",
        "written by the operator, never by hand: leave it out",
    ),
];

/// Reads one object.
///
/// # Errors
/// The first of: invalid YAML, another kind of object, several objects, an unknown or missing
/// field, a value of the wrong type.
pub fn read(text: &str) -> Result<ScaledApp, ReadError> {
    let header: Header = deserialize(text)?;
    if header.kind != KIND || header.api_version != API_VERSION {
        return Err(ReadError {
            at: None,
            path: String::new(),
            message: format!(
                "contains {}, not a {KIND}: it must begin with `apiVersion: {API_VERSION}` and `kind: {KIND}`",
                described(&header)
            ),
        });
    }
    deserialize(text)
}

/// The objects of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    /// The apps, in the order of the text. There is at least one, unless the text consists of
    /// empty lists.
    pub apps: Vec<ScaledApp>,
    /// Descriptions of the other objects, such as `a Service of v1`.
    pub others: Vec<String>,
}

/// Reads every `ScaledApp` of a text. The text has one YAML document or several (YAML 1.2 section
/// 9.2). A document may also be a `List`, as `kubectl get -o yaml` prints it. Lines and columns in
/// errors are those of the whole text.
///
/// # Errors
/// The errors of [`read`] for each document; only objects of other kinds; a `List` that contains
/// another kind.
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
                "contains {}, not a {KIND}: every item of a List must be a {KIND}, so remove this item",
                described(other)
            ),
        });
    }
    let list: List<ScaledApp> = deserialize(document)?;
    Ok(list.items)
}

/// The non-empty documents of a text. Each is preceded by as many empty lines as the text has lines
/// before it, so that errors name the right line.
fn documents(text: &str) -> Vec<String> {
    let mut documents = Vec::new();
    let mut document = String::new();
    for line in text.split_inclusive('\n') {
        // In the first column, `---` and `...` are always markers, even inside a block scalar.
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
        // A number or a boolean in place of text must not work here, because Kubernetes
        // refuses it.
        no_schema: true,
        strict_booleans: true,
    }
}

fn explain(error: &Error, path: &str) -> ReadError {
    let error = error.without_snippet();
    let location = error.location();
    ReadError {
        at: location.map(|at| (at.line(), at.column())),
        // The path of the object itself is ".", and a member without a name is "?".
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
                "there is no such field; known fields: {}",
                expected.join(", ")
            ),
        },
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => match not_yet(variant) {
            Some((_, cure)) => (*cure).to_owned(),
            None => format!("{variant:?} is not one of {}", expected.join(", ")),
        },
        Error::SerdeMissingField { field, .. } => format!("`{field}` is missing"),
        Error::InvalidScalar { .. } => "must be a whole number".to_owned(),
        Error::QuotingRequired { value, .. } => {
            format!("must be text: write it in quotes, \"{value}\"")
        }
        Error::Unexpected {
            expected: "mapping start",
            ..
        } => "must be a mapping, such as {name: value}".to_owned(),
        Error::Unexpected {
            expected: "sequence start",
            ..
        } => "must be a list, such as [a, b]".to_owned(),
        Error::MultipleDocuments { .. } => {
            "one object per file: move what follows the `---` into its own file".to_owned()
        }
        other => UserMessageFormatter.format_message(other).into_owned(),
    }
}
