//! The tokens by which the proxies of one app identify themselves to each other: the format
//! of a token file, and whether a received token is in it. Which app the tokens belong to,
//! and where they come from, is decided elsewhere.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::hint::black_box;

/// The shortest token in bytes. A shorter one could be guessed.
const MIN_BYTES: usize = 16;
/// The longest token in bytes. It is sent with each request, so it must be short.
const MAX_BYTES: usize = 256;
/// The most tokens of an app: the old one and the new one, and some that were forgotten.
const MAX_TOKENS: usize = 16;

/// The tokens by which the proxies of one app identify themselves to each other. The first
/// one is sent and any of them is accepted, so that a token can be replaced without a gap.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens(Arc<[Box<str>]>);

/// Why a text is not a list of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokensError {
    /// It is empty or contains only space.
    Empty,
    /// A line cannot be sent as a token, or could be guessed.
    Shape(usize),
    /// It has more tokens than any replacement needs.
    Many,
}

impl fmt::Display for TokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str(
                "it is empty: write one token per line, such as the output of `openssl rand -hex 32`",
            ),
            Self::Shape(line) => write!(
                f,
                "line {line} is not a token: give {MIN_BYTES} to {MAX_BYTES} visible ASCII \
                 characters, such as the output of `openssl rand -hex 32`"
            ),
            Self::Many => write!(
                f,
                "it has more than {MAX_TOKENS} tokens: keep the one in use and the one before"
            ),
        }
    }
}

impl core::error::Error for TokensError {}

/// The lines of a text that are not empty, without surrounding space, and their numbers
/// from 1.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.map(|(index, line)| (index + 1, line.trim_ascii()));
    lines.filter(|(_, line)| !line.is_empty())
}

impl Tokens {
    /// Reads one token per line, the first of which is sent; empty lines are skipped.
    ///
    /// # Errors
    /// There is no token, or one that cannot be used; the error does not contain the token
    /// itself.
    pub fn parse(text: &[u8]) -> Result<Self, TokensError> {
        let mut tokens = Vec::new();
        for (number, line) in lines(text) {
            let is_sound = (MIN_BYTES..=MAX_BYTES).contains(&line.len())
                && line.iter().all(u8::is_ascii_graphic);
            let token = core::str::from_utf8(line).ok().filter(|_| is_sound);
            tokens.push(Box::from(token.ok_or(TokensError::Shape(number))?));
        }
        match tokens.len() {
            0 => Err(TokensError::Empty),
            1..=MAX_TOKENS => Ok(Self(tokens.into())),
            _ => Err(TokensError::Many),
        }
    }

    /// Whether two texts have a token in common, whatever its format.
    pub fn overlap(one: &str, other: &str) -> bool {
        let others = || lines(other.as_bytes());
        lines(one.as_bytes()).any(|(_, token)| others().any(|(_, other)| other == token))
    }

    /// The token to send; `None` if there are no tokens yet.
    pub fn first(&self) -> Option<&str> {
        self.0.first().map(|token| &**token)
    }

    /// Compares in constant time, so that a token cannot be found byte by byte.
    pub fn contains(&self, shown: &[u8]) -> bool {
        let is_equal = |token: &str| {
            let token = token.as_bytes();
            let pairs = token.iter().zip(shown);
            let differing = pairs.fold(0, |differing, (a, b)| differing | (a ^ b));
            black_box(differing) == 0 && token.len() == shown.len()
        };
        let tokens = self.0.iter();
        tokens.fold(false, |found, token| found | is_equal(token))
    }
}

impl fmt::Debug for Tokens {
    /// Does not show the tokens, because the output may be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;

    const ONE: &str = "0123456789abcdef";
    const TWO: &str = "fedcba9876543210fedcba9876543210";

    #[test]
    fn a_file_holds_one_token_per_line() {
        let both = format!("\n  {ONE}\r\n\n{TWO}");
        let tokens = Tokens::parse(both.as_bytes()).unwrap();
        assert_eq!(tokens.first(), Some(ONE));
        for (shown, is_accepted) in [
            (ONE, true),
            (TWO, true),
            ("", false),
            (&ONE[..15], false),
            (&TWO[..16], false),
            ("0123456789abcdeF", false),
            (&format!("{ONE}0"), false),
        ] {
            assert_eq!(tokens.contains(shown.as_bytes()), is_accepted, "{shown}");
        }
        assert!(!Tokens::default().contains(b""));
        assert!(!format!("{tokens:?}").contains(ONE));
    }

    #[test]
    fn a_line_that_is_not_a_token_is_refused_and_not_shown() {
        for (text, wanted) in [
            (" \n\t\n", TokensError::Empty),
            ("short", TokensError::Shape(1)),
            ("0123456789abcdef\n0123456789 abcdef", TokensError::Shape(2)),
            ("0123456789abcdé", TokensError::Shape(1)),
            (&"x".repeat(257), TokensError::Shape(1)),
            (&format!("{ONE}\n").repeat(17), TokensError::Many),
        ] {
            assert_eq!(Tokens::parse(text.as_bytes()), Err(wanted), "{text}");
            assert!(!wanted.to_string().contains("0123"), "{wanted}");
        }
        let line = Tokens::parse(&[0xff; 20]).unwrap_err();
        assert_eq!(line, TokensError::Shape(1));
    }

    #[test]
    fn texts_overlap_only_in_a_whole_token() {
        for (one, other, overlap) in [
            (ONE, ONE, true),
            (ONE, &format!("{TWO}\r\n {ONE} \n"), true),
            (ONE, TWO, false),
            (ONE, &ONE[..15], false),
            ("", "\n", false),
        ] {
            assert_eq!(Tokens::overlap(one, other), overlap, "{one} {other}");
        }
    }
}
