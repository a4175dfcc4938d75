//! How a command line ends the program: help and version with 0, wrong usage
//! with 64 (`EX_USAGE` of sysexits.h), because 2 means "nothing could start".

use std::ffi::OsString;
use std::process::ExitCode;

/// Exit code of wrong usage (`EX_USAGE`).
pub const USAGE: u8 = 64;

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

fn code(error: &clap::Error) -> u8 {
    if error.exit_code() == 0 { 0 } else { USAGE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

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
    fn good_arguments_are_returned() {
        let example: Example = parse_from(["x", "--number", "7", "run"]).unwrap();
        assert_eq!(example.number, 7);
        assert!(matches!(example.command, Command::Run));
    }
}
