//! The cookies of a request (RFC 6265 section 4.2.1): finds those with a given name, and writes a
//! field without them.
//!
//! What a value means is not decided here.

use alloc::vec::Vec;

use crate::lexis::trim;

/// The values of the cookies called `name` in a `Cookie` field.
pub(crate) fn values<'b>(field: &'b [u8], name: &str) -> impl Iterator<Item = &'b [u8]> {
    pairs(field).filter_map(move |pair| value(pair, name))
}

fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    field.split(|&byte| byte == b';')
}

/// The value of a pair if it has this name, without the quotes that some clients add.
fn value<'b>(pair: &'b [u8], name: &str) -> Option<&'b [u8]> {
    let rest = trim(pair).strip_prefix(name.as_bytes())?;
    let value = rest.strip_prefix(b"=")?;
    let unquoted = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    Some(unquoted.unwrap_or(value))
}

/// Appends the field's value without the cookies called `name`. The other cookies are copied byte
/// for byte, apart from space around the first. Returns whether there are other cookies.
pub(crate) fn put_without(out: &mut Vec<u8>, field: &[u8], name: &str) -> bool {
    let mut has_others = false;
    let is_other = |pair: &&[u8]| !trim(pair).is_empty() && value(pair, name).is_none();
    for pair in pairs(field).filter(is_other) {
        if has_others {
            out.push(b';');
            out.extend_from_slice(pair);
        } else {
            out.extend_from_slice(trim(pair));
        }
        has_others = true;
    }
    has_others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let all = |field: &str| -> Vec<Vec<u8>> {
            values(field.as_bytes(), "S").map(<[u8]>::to_vec).collect()
        };
        assert_eq!(all("a=b; S=1; c=d"), [b"1"]);
        assert_eq!(all("S=1;S=\"2\" ; S="), [&b"1"[..], b"2", b""]);
        for field in ["", "s=1", "XS=1", "S", "SS=1", "a=S=1"] {
            assert!(all(field).is_empty(), "{field}");
        }
    }

    #[test]
    fn the_other_cookies_stay_as_they_are() {
        for (field, wanted) in [
            ("a=b; S=1; c=\"d;e", "a=b; c=\"d;e"),
            ("S=1; a=b", "a=b"),
            ("a=b;  c ;S=1", "a=b;  c "),
            ("a=b", "a=b"),
            ("S=1", ""),
            ("S=1;", ""),
            ("a=b; S=1; ", "a=b"),
        ] {
            let mut out = Vec::new();
            assert_eq!(
                put_without(&mut out, field.as_bytes(), "S"),
                !wanted.is_empty()
            );
            assert_eq!(out, wanted.as_bytes(), "{field}");
        }
    }
}
