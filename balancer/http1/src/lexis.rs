//! Classes of bytes, and the tokens made of them (RFC 9110 section 5.6, RFC 3986 section
//! 2). Where a token may appear is not decided here.

use core::ops::Range;

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const NAME: u8 = 4;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = class(byte as u8);
        byte += 1;
    }
    classes
};

const fn class(byte: u8) -> u8 {
    let alphanumeric = byte.is_ascii_alphanumeric();
    let token = alphanumeric || is_one_of(byte, b"!#$%&'*+-.^_`|~");
    // A fragment never belongs to a request (RFC 9110 section 7.1).
    let target = byte.is_ascii_graphic() && byte != b'#';
    // `%` is not included, because the digits after it must be checked.
    let name = alphanumeric || is_one_of(byte, b"-._~!$&'()*+,;=");
    (if token { TOKEN } else { 0 })
        | (if target { TARGET } else { 0 })
        | (if name { NAME } else { 0 })
}

const fn is_one_of(byte: u8, bytes: &[u8]) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

pub(crate) const fn is_token_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & TOKEN != 0
}

/// The bytes of a reg-name, apart from percent-encoded ones.
pub(crate) const fn is_name_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & NAME != 0
}

/// The bytes of a field's value: no control byte except the tab, and any byte beyond ASCII
/// (obs-text).
pub(crate) const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Whether all bytes may be in a field's value. The loop does not stop early, so that the
/// compiler can check many bytes with one instruction.
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    let all = |fine, &byte| fine & is_value_byte(byte);
    bytes.iter().fold(true, all)
}

pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && token_length(bytes) == bytes.len()
}

pub(crate) fn token_length(bytes: &[u8]) -> usize {
    let end = bytes.iter().position(|&byte| !is_token_byte(byte));
    end.unwrap_or(bytes.len())
}

pub(crate) fn target_length(bytes: &[u8]) -> usize {
    let other = |&byte: &u8| CLASSES[byte as usize] & TARGET == 0;
    bytes.iter().position(other).unwrap_or(bytes.len())
}

pub(crate) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The first position from `start` on that is neither a space nor a tab, or the length of `bytes`.
pub(crate) fn after_spaces(bytes: &[u8], start: usize) -> usize {
    let spaces = bytes[start..].iter().take_while(|&&byte| is_space(byte));
    start + spaces.count()
}

/// The position of the content of `within`, without spaces and tabs around it.
pub(crate) fn trimmed(bytes: &[u8], within: Range<usize>) -> Range<usize> {
    let Range { mut start, mut end } = within;
    while start < end && is_space(bytes[start]) {
        start += 1;
    }
    while end > start && is_space(bytes[end - 1]) {
        end -= 1;
    }
    start..end
}

pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    &bytes[trimmed(bytes, 0..bytes.len())]
}

/// The elements of a comma-separated list; empty ones do not count (RFC 9110 section
/// 5.6.1.2). It must not be used for values with quoted strings.
pub(crate) fn list(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let elements = value.split(|&byte| byte == b',').map(trim);
    elements.filter(|element| !element.is_empty())
}

/// The decimal number that the bytes spell. Only digits are allowed: no sign and no space. `None`
/// if the number has more than 64 bits.
pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_that_fit() {
        let largest = b"18446744073709551615";
        assert_eq!(number(largest), Some(u64::MAX));
        assert_eq!(number(b"007"), Some(7));
        for bad in [
            "",
            "+1",
            "-1",
            " 1",
            "1 ",
            "0x1",
            "1_0",
            "18446744073709551616",
        ] {
            assert_eq!(number(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn lists_have_no_empty_elements() {
        let elements: alloc::vec::Vec<&[u8]> = list(b" a ,,\tb, ").collect();
        assert_eq!(elements, [b"a", b"b"]);
    }

    #[test]
    fn classes_are_those_of_the_grammar() {
        for byte in 0..=255u8 {
            let separator = b"\"(),/:;<=>?@[\\]{}".contains(&byte);
            assert_eq!(is_token_byte(byte), byte.is_ascii_graphic() && !separator);
            let target = (0x21..=0x7e).contains(&byte) && byte != b'#';
            assert_eq!(target_length(&[byte]) == 1, target, "{byte}");
            let control = byte < 0x20 && byte != 9 || byte == 0x7f;
            assert_eq!(is_value(&[byte]), !control, "{byte}");
        }
    }
}
