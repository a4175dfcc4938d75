//! What the command lines share: `--admin`, names of namespaces, and exit codes. Help and
//! version exit with 0, wrong usage with 64 (`EX_USAGE` of sysexits.h), because 2 means
//! "could not start".

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

/// `--admin`: an address, or `none`.
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

/// Parses an address to listen on.
///
/// # Errors
/// The text is not an IP address with a port; the message names the cure.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not an IP address with a port: give one such as 0.0.0.0:8080 or [::]:8080"
        )
    })
}

/// Parses the name of a Kubernetes namespace in a list, in which users may also write
/// spaces. An empty text is accepted, because a variable may be set and empty.
///
/// # Errors
/// The text cannot be the name of a namespace; the message names the cure.
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
            "{name:?} is not the name of a namespace: use a-z, 0-9 and -; to use all namespaces, leave it out"
        ))
    }
}

/// Sorts a list of names and removes duplicates and empty ones.
fn namespaces(given: Vec<String>) -> Vec<String> {
    let named = given.into_iter().filter(|name| !name.is_empty());
    let once: BTreeSet<String> = named.collect();
    once.into_iter().collect()
}

/// The flags about namespaces, for the operator and the DNS server, which must both get the
/// same ones. `Z` is a zone with its namespaces.
#[derive(Debug, clap::Args)]
pub struct NamespaceArgs<Z>
where
    Z: FromStr<Err: std::error::Error + Send + Sync> + Clone + Send + Sync + 'static,
{
    /// Use only the ScaledApps of this namespace; repeat for more [default: all namespaces]
    #[arg(
        long,
        env = "SCALEDAPP_WATCH_NAMESPACE",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        value_parser = namespace
    )]
    watch_namespace: Vec<String>,
    /// Reserve the hostnames in this zone for ScaledApps of these namespaces; repeat for more. The most specific zone decides, and names in no such zone are open to all
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
    /// Returns the namespaces to watch (each once, sorted; empty means all), and the zones
    /// with their namespaces, as given.
    pub fn into_parts(self) -> (Vec<String>, Vec<Z>) {
        (namespaces(self.watch_namespace), self.zone_namespaces)
    }
}

/// Parses the program's arguments. On help, version or an error, prints clap's message and
/// returns the exit code for `main`.
pub fn parse<C: clap::Parser>() -> Result<C, ExitCode> {
    parse_from(std::env::args_os())
}

/// Like [`parse`], for the given arguments, of which the first is the program's name.
pub fn parse_from<C, I, T>(arguments: I) -> Result<C, ExitCode>
where
    C: clap::Parser,
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    C::try_parse_from(arguments).map_err(|error| {
        // If the terminal is closed, only the exit code can be returned.
        drop(error.print());
        ExitCode::from(code(&error))
    })
}

/// Runs a service to its end, with a log under its name; returns the exit code.
pub fn serve<E: Display>(program: &'static str, run: impl FnOnce() -> Result<(), E>) -> ExitCode {
    // This value is dropped at the end, so that everything logged until then is written.
    let _logging = init_logging(program);
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(program, &error, COULD_NOT_START),
    }
}

/// Prints to stderr why the program ends; returns `code` for `main`.
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
    fn a_namespace_may_have_spaces_around_it_and_an_empty_text_is_no_name() {
        for (text, name) in [("team-a", "team-a"), (" b ", "b"), ("", ""), (" ", "")] {
            assert_eq!(namespace(text).as_deref(), Ok(name));
        }
        for text in ["*", "Team", "a b", "-a", "a.b", &"a".repeat(64)] {
            let message = namespace(text).unwrap_err();
            assert!(
                message.contains("is not the name of a namespace"),
                "{message}"
            );
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
    fn help_and_version_exit_with_0_and_wrong_usage_with_64() {
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
    fn an_address_to_listen_on_has_a_port() {
        assert_eq!(listen_address("[::]:80"), Ok("[::]:80".parse().unwrap()));
        for text in [
            "8080",
            ":8080",
            "127.0.0.1",
            "localhost:80",
            "1.2.3.4:65536",
        ] {
            let error = listen_address(text).unwrap_err();
            assert!(error.contains("such as 0.0.0.0:8080"), "{error}");
        }
    }

    #[test]
    fn good_arguments_are_returned() {
        let example: Example = parse_from(["x", "--number", "7", "run"]).unwrap();
        assert_eq!(example.number, 7);
        assert!(matches!(example.command, Command::Run));
    }
}
