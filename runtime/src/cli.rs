//! What the command lines have in common: `--admin`, names of namespaces, and how they end the
//! program. Help and version end it with 0, wrong usage with 64 (`EX_USAGE` of
//! sysexits.h), because 2 means "nothing could start".

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Display;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;

use serde::Deserialize;

use crate::logging::{init_logging, say};

/// Exit code of wrong usage (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// Exit code of a service that could not start.
pub const COULD_NOT_START: u8 = 2;

/// `--admin`: an address, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AdminArg(pub Option<SocketAddr>);

impl FromStr for AdminArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(address) => Ok(Self(Some(address))),
            Err(_) => Err(format!(
                "{text:?} is neither IP:PORT, such as 127.0.0.1:9377, nor none"
            )),
        }
    }
}

impl TryFrom<String> for AdminArg {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Reads the name of a Kubernetes namespace, for a list of them that people write with
/// spaces, too. Nothing is the empty text: a variable may be there and empty.
///
/// # Errors
/// It can be no namespace's name; the text names the cure.
fn namespace(text: &str) -> Result<String, String> {
    let name = text.trim();
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = name.len() <= 63
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if is_label {
        Ok(name.to_owned())
    } else {
        Err(format!(
            "{name:?} is no namespace: a-z, 0-9 and - are in such a name; to mean all namespaces, leave it out"
        ))
    }
}

/// A list of them as it is meant: each once, in order, and none that is empty.
fn namespaces(given: Vec<String>) -> Vec<String> {
    let named = given.into_iter().filter(|name| !name.is_empty());
    let once: BTreeSet<String> = named.collect();
    once.into_iter().collect()
}

/// The flags that say what concerns which namespaces, for the operator and the DNS server: both
/// have to be told the same. `Z` is a zone with its namespaces.
#[derive(Debug, clap::Args)]
#[expect(
    clippy::doc_markdown,
    reason = "what documents an argument is its help, and that is plain text"
)]
pub struct NamespaceArgs<Z>
where
    Z: FromStr<Err: std::error::Error + Send + Sync> + Clone + Send + Sync + 'static,
{
    /// Only the ScaledApps of this namespace count; repeat for more [default: those of all]
    #[arg(
        long,
        env = "SCALEDAPP_WATCH_NAMESPACE",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        value_parser = namespace
    )]
    watch_namespace: Vec<String>,
    /// Hostnames in this zone are for ScaledApps of these namespaces only; repeat for
    /// more. The most specific zone counts, names in none of them are open to all
    #[arg(
        long,
        env = "SCALEDAPP_ZONE_NAMESPACES",
        value_name = "ZONE=NS,NS",
        value_delimiter = ';',
        value_parser = |text: &str| text.parse::<Z>()
    )]
    zone_namespaces: Vec<Z>,
}

impl<Z> NamespaceArgs<Z>
where
    Z: FromStr<Err: std::error::Error + Send + Sync> + Clone + Send + Sync + 'static,
{
    /// The namespaces to watch, each once and in order; all of them if there is none here. Then
    /// the zones with their namespaces, as given.
    pub fn into_parts(self) -> (Vec<String>, Vec<Z>) {
        (namespaces(self.watch_namespace), self.zone_namespaces)
    }
}

/// Parses the program's arguments; on help, version or an error prints what
/// clap has to say and returns the code to return from `main`.
pub fn parse<C: clap::Parser>() -> Result<C, ExitCode> {
    parse_from(std::env::args_os())
}

/// As [`parse`], for arguments given; the first one is the program's name.
pub fn parse_from<C, I, T>(arguments: I) -> Result<C, ExitCode>
where
    C: clap::Parser,
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    C::try_parse_from(arguments).map_err(|error| {
        // A closed terminal leaves the code as the only answer.
        drop(error.print());
        ExitCode::from(code(&error))
    })
}

/// Runs a service to its end, with a log under its name; the exit code.
pub fn serve<E: Display>(program: &'static str, run: impl FnOnce() -> Result<(), E>) -> ExitCode {
    // Dropped at the end: what is logged until then is written.
    let _logging = init_logging(program);
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(program, &error, COULD_NOT_START),
    }
}

/// Says on stderr why the program ends; `code` as it is returned from `main`.
pub fn fail(program: &str, error: &impl Display, code: u8) -> ExitCode {
    say(&format!("{program}: {error:#}"));
    ExitCode::from(code)
}

fn code(error: &clap::Error) -> u8 {
    if error.exit_code() == 0 { 0 } else { USAGE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn a_namespace_may_be_written_with_spaces_around_and_nothing_is_no_name() {
        for (text, name) in [("team-a", "team-a"), (" b ", "b"), ("", ""), (" ", "")] {
            assert_eq!(namespace(text).as_deref(), Ok(name));
        }
        for text in ["*", "Team", "a b", "-a", "a.b", &"a".repeat(64)] {
            let message = namespace(text).unwrap_err();
            assert!(message.contains("is no namespace"), "{message}");
        }
    }

    #[derive(Debug, Parser)]
    #[command(version = "1.2.3", subcommand_required = true)]
    struct Example {
        #[arg(long, default_value_t = 1)]
        number: u8,
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Command {
        Run,
    }

    #[test]
    fn help_and_version_end_with_0_and_wrong_usage_with_64() {
        for (arguments, expected) in [
            (&["x", "--help"][..], 0),
            (&["x", "--version"], 0),
            (&["x", "help", "run"], 0),
            (&["x"], USAGE),
            (&["x", "--number", "many", "run"], USAGE),
            (&["x", "--no-such-flag", "run"], USAGE),
            (&["x", "walk"], USAGE),
        ] {
            let error = Example::try_parse_from(arguments).unwrap_err();
            assert_eq!(code(&error), expected, "{arguments:?}");
        }
    }

    #[test]
    fn an_admin_address_may_be_none() {
        assert_eq!("none".parse(), Ok(AdminArg(None)));
        let address = AdminArg(Some(([127, 0, 0, 1], 9377).into()));
        assert_eq!("127.0.0.1:9377".parse(), Ok(address));
        let json = serde_json::from_str::<AdminArg>("\"127.0.0.1:9377\"");
        assert_eq!(json.unwrap(), address);
        for text in ["9377", "localhost:9377", ""] {
            let error = text.parse::<AdminArg>().unwrap_err();
            assert!(error.contains("such as 127.0.0.1:9377"), "{error}");
        }
    }

    #[test]
    fn good_arguments_are_returned() {
        let example: Example = parse_from(["x", "--number", "7", "run"]).unwrap();
        assert_eq!(example.number, 7);
        assert!(matches!(example.command, Command::Run));
    }
}
