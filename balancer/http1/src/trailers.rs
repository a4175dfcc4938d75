//! Trailer fields, which follow the last chunk of a body (RFC 9112 section 7.1.2), and which of
//! them may be passed on.
//!
//! Whether a recipient wants trailer fields is not decided here.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::known::Known;
use crate::lexis::trim;

/// Names of fields that have a meaning only in a head (RFC 9110 section 6.5.1). They are not
/// passed on as trailer fields: a recipient that adds trailer fields to the head would be deceived
/// by them. The names that [`Known`] lists are not passed on either.
const ONLY_IN_HEADS: [&[u8]; 16] = [
    b"age",
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"content-type",
    b"cookie",
    b"date",
    b"expires",
    b"location",
    b"max-forwards",
    b"pragma",
    b"range",
    b"retry-after",
    b"set-cookie",
    b"vary",
];

/// The trailer fields of one body. They take no memory if there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trailers {
    /// Well-formed field lines.
    #[expect(
        clippy::box_collection,
        reason = "most bodies have no trailers, and each connection in use has a reader of bodies"
    )]
    lines: Option<Box<Vec<u8>>>,
}

impl Trailers {
    /// Adds a byte of a line. The caller checks that the lines are well-formed.
    pub(crate) fn push(&mut self, byte: u8) {
        self.lines.get_or_insert_default().push(byte);
    }

    /// Whether there are no trailer fields.
    pub fn is_empty(&self) -> bool {
        self.lines.is_none()
    }

    /// The names and values of all fields, in their order.
    fn all(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines: &[u8] = self.lines.as_ref().map_or(&[], |lines| lines);
        let lines = lines.split(|&byte| byte == b'\n');
        lines.filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let value = line[colon + 1..].strip_suffix(b"\r")?;
            Some((&line[..colon], trim(value)))
        })
    }

    /// The fields that no recipient mistakes for fields of the head.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.all().filter(|(name, _)| may_follow(name))
    }

    /// The fields of a call of gRPC, in which every name is the app's: all but those of the
    /// connection and those between ScaledApp proxies.
    pub fn fields_of_call(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.all()
            .filter(|(name, _)| !Known::of(name).is_of_connection())
    }

    /// The value of the first field with this name; letter case is ignored.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let is_it = |field: &(&[u8], &[u8])| field.0.eq_ignore_ascii_case(name.as_bytes());
        self.all().find(is_it).map(|(_, value)| value)
    }
}

fn may_follow(name: &[u8]) -> bool {
    let mut of_heads = ONLY_IN_HEADS.iter();
    Known::of(name) == Known::Other && !of_heads.any(|of_head| name.eq_ignore_ascii_case(of_head))
}
