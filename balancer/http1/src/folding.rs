//! Fields of an answer that are folded over several lines. RFC 9112 section 5.2 allows a
//! proxy to replace the line ends with spaces, and old apps still write such fields.
//!
//! The caller decides for which heads this is tried. In a request, folding is refused.

use memchr::memchr;

use crate::known::Known;
use crate::lexis::{is_space, token_length};

/// Joins the folded lines of the head at the start of `bytes`, as far as it has arrived.
/// Returns whether any were joined. Folded lines of a field that frames the message are
/// not joined, nor is a folded line without a field before it: the parser then refuses the
/// head.
pub fn unfold(bytes: &mut [u8]) -> bool {
    let mut is_changed = false;
    // The end of the line before the current one.
    let Some(mut feed) = memchr(b'\n', bytes) else {
        return false;
    };
    let mut may_go_on = false;
    while let Some(length) = memchr(b'\n', &bytes[feed + 1..]) {
        let start = feed + 1;
        let line = &bytes[start..start + length];
        match line {
            [] | [b'\r'] => break,
            [first, ..] if is_space(*first) => {
                if !may_go_on {
                    break;
                }
                bytes[feed] = b' ';
                if bytes[feed - 1] == b'\r' {
                    bytes[feed - 1] = b' ';
                }
                is_changed = true;
            }
            line => may_go_on = !Known::of(&line[..token_length(line)]).frames(),
        }
        feed = start + length;
    }
    is_changed
}
