//! How a command ends: its exit code, and what it says on stderr. Only `main` turns this into the
//! end of the process.

use std::fmt;

/// Exit code: nothing fails.
pub(crate) const GOOD: u8 = 0;
/// Exit code: something fails, or a change did not come about in time.
pub(crate) const FAILS: u8 = 1;
/// Exit code: the state could not be found out: no cluster, no right, no answer in time.
pub(crate) const UNKNOWN: u8 = 2;
/// Exit code: wrong usage (`EX_USAGE` of sysexits.h).
pub(crate) const USAGE: u8 = 64;
/// Exit code after Ctrl-C: 128 and the number of SIGINT, as shells report it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command ended early: the exit code, and a text for stderr that names the cure if there is
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// Something fails.
    pub(crate) fn fails(text: impl Into<String>) -> Self {
        Self::new(FAILS, text)
    }

    /// The state could not be found out.
    pub(crate) fn unknown(text: impl Into<String>) -> Self {
        Self::new(UNKNOWN, text)
    }

    /// The command line cannot be understood.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(USAGE, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The exit code of a command that ended well, or why it ended early.
pub(crate) type Ended = Result<u8, Failure>;
