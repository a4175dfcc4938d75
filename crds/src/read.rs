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
