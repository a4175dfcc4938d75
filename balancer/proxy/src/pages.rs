//! The user's pages for answers of the proxy itself: which page a client gets.
//!
//! A page is a file named after the status, such as `503.html` or `5xx.json`. The binaries read
//! the files. A gRPC call never gets a page.

use std::sync::Arc;

/// The most bytes of a page.
const PAGE_BYTES: usize = 64 << 10;
/// The most pages.
const MAX_PAGES: usize = 64;

/// The form of a page, by the extension of its file. If a client accepts several equally, it gets
/// the first of this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Html,
    Json,
    Text,
}

impl Form {
    const ALL: [Self; 3] = [Self::Html, Self::Json, Self::Text];

    fn of_extension(extension: &str) -> Option<Self> {
        match extension {
            "html" => Some(Self::Html),
            "json" => Some(Self::Json),
            "txt" => Some(Self::Text),
            _ => None,
        }
    }

    /// Type and subtype.
    fn media(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Html => (b"text", b"html"),
            Self::Json => (b"application", b"json"),
            Self::Text => (b"text", b"plain"),
        }
    }

    /// The value of `Content-Type`. JSON is UTF-8 without a parameter that says so (RFC 8259
    /// section 11).
    fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
            Self::Text => "text/plain; charset=utf-8",
        }
    }
}

/// The statuses that a page is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Status(u16),
    /// All statuses with this first digit.
    Class(u16),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Page {
    is_for: For,
    form: Form,
    body: Arc<[u8]>,
}

/// The pages of a proxy. By default, none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pages(Vec<Page>);

/// Why a file is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Its name is not that of a page.
    #[error(
        "its name is not that of a page: name it after a status from 400 to 599 or a class, such as 503.html, 5xx.json or 429.txt"
    )]
    Name,
    /// It has too many bytes.
    #[error("it has more than 64 KiB: put images and styles elsewhere, as the app may be away")]
    Large,
    /// There are too many pages.
    #[error("there are more than 64 pages: remove some")]
    Many,
}

impl Pages {
    /// The most bytes of a page.
    pub const MAX_BYTES: usize = PAGE_BYTES;

    /// Adds the page in a file of this name.
    ///
    /// # Errors
    /// The file is not used.
    pub fn add(&mut self, name: &str, body: &[u8]) -> Result<(), PageError> {
        let (is_for, form) = parse(name).ok_or(PageError::Name)?;
        if body.len() > PAGE_BYTES {
            return Err(PageError::Large);
        }
        if self.0.len() >= MAX_PAGES {
            return Err(PageError::Many);
        }
        self.0.push(Page {
            is_for,
            form,
            body: body.into(),
        });
        Ok(())
    }

    /// The number of pages.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The page for an answer with this status; `None`: there is none that the client accepts. A
    /// page for the status itself comes before one for its class.
    pub(crate) fn find(&self, status: u16, accepted: Accepted) -> Option<Found> {
        let page = |form, is_for| {
            let mut pages = self.0.iter();
            pages.find(|page| page.form == form && page.is_for == is_for)
        };
        let of_form =
            |form| page(form, For::Status(status)).or_else(|| page(form, For::Class(status / 100)));
        let found = Form::ALL.into_iter().filter_map(|form| {
            let rank = accepted.0[form as usize];
            of_form(form).filter(|_| rank > 0).map(|page| (page, rank))
        });
        // The first of several with the same rank.
        let (page, _) = found.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        Some(Found {
            content_type: page.form.content_type(),
            body: Arc::clone(&page.body),
        })
    }
}

/// A page for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) content_type: &'static str,
    pub(crate) body: Arc<[u8]>,
}

fn parse(name: &str) -> Option<(For, Form)> {
    let (status, extension) = name.split_once('.')?;
    let form = Form::of_extension(extension)?;
    let is_for = match status {
        "4xx" => For::Class(4),
        "5xx" => For::Class(5),
        _ => {
            let number = status.parse().ok().filter(|_| status.len() == 3)?;
            For::Status(Some(number).filter(|number| (400..600).contains(number))?)
        }
    };
    Some((is_for, form))
}

/// How much a client likes each form; 0 if it does not accept the form. The quality comes first (RFC
/// 9110 section 12.5.1). Of several with the same quality, the client gets the one that it names
/// explicitly, not by `*/*`: common libraries send `application/json, text/plain, */*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted([u16; Form::ALL.len()]);

impl Default for Accepted {
    /// A client that has said nothing accepts everything.
    fn default() -> Self {
        Self([rank(1000, 0); Form::ALL.len()])
    }
}

impl Accepted {
    /// What the values of the `Accept` fields of a request say.
    pub(crate) fn of<'b>(values: impl Iterator<Item = &'b [u8]>) -> Self {
        // The quality of each form, and how precisely the range names it.
        let mut found: [Option<(u8, u16)>; Form::ALL.len()] = [None; Form::ALL.len()];
        let mut is_empty = true;
        for range in values.flat_map(|value| value.split(|byte| *byte == b',')) {
            let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let Some(media) = parts.next().filter(|media| !media.is_empty()) else {
                continue;
            };
            is_empty = false;
            let quality = parts.find_map(quality).unwrap_or(1000);
            for form in Form::ALL {
                let Some(precision) = matches(media, form.media()) else {
                    continue;
                };
                let known = &mut found[form as usize];
                if known.is_none_or(|(before, _)| before < precision) {
                    *known = Some((precision, quality));
                }
            }
        }
        if is_empty {
            return Self::default();
        }
        Self(found.map(|form| form.map_or(0, |(precision, quality)| rank(quality, precision))))
    }
}

/// One number for a quality in thousandths and a precision from 0 to 2.
fn rank(quality: u16, precision: u8) -> u16 {
    if quality == 0 {
        0
    } else {
        quality * 4 + u16::from(precision)
    }
}

/// How precisely a media range names a media type; `None` if it does not.
fn matches(range: &[u8], (kind, subtype): (&[u8], &[u8])) -> Option<u8> {
    let slash = range.iter().position(|byte| *byte == b'/')?;
    let (of, sub) = (&range[..slash], &range[slash + 1..]);
    match (of, sub) {
        (b"*", b"*") => Some(0),
        (of, b"*") if of.eq_ignore_ascii_case(kind) => Some(1),
        (of, sub) if of.eq_ignore_ascii_case(kind) && sub.eq_ignore_ascii_case(subtype) => Some(2),
        _ => None,
    }
}

/// The value of a parameter `q`, in thousandths.
fn quality(parameter: &[u8]) -> Option<u16> {
    let (b'q' | b'Q', value) = parameter.split_first()? else {
        return None;
    };
    let value = std::str::from_utf8(value.strip_prefix(b"=")?).ok()?;
    let value: f32 = value.parse().ok().filter(|_| value.len() <= 5)?;
    // Also excludes what is no number. The result has no fraction, so the cast keeps it.
    let is_valid = (0.0..=1.0).contains(&value);
    is_valid.then(|| (value * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(names: &[&str]) -> Pages {
        let mut pages = Pages::default();
        for name in names {
            pages.add(name, name.as_bytes()).unwrap();
        }
        pages
    }

    fn found(pages: &Pages, status: u16, accept: &str) -> Option<String> {
        let accepted = Accepted::of([accept.as_bytes()].into_iter());
        let found = pages.find(status, accepted)?;
        Some(String::from_utf8(found.body.to_vec()).unwrap())
    }

    #[test]
    fn a_client_gets_the_page_that_it_likes_best() {
        let pages = pages(&["5xx.html", "503.html", "5xx.json", "429.txt"]);
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (status, accept, wanted) in [
            (503, browser, Some("503.html")),
            (502, browser, Some("5xx.html")),
            (503, "application/json", Some("5xx.json")),
            (503, "application/json, text/plain, */*", Some("5xx.json")),
            (503, "", Some("503.html")),
            (503, "*/*", Some("503.html")),
            (503, "text/*", Some("503.html")),
            (
                503,
                "text/html;q=0.5, application/json;q=0.6",
                Some("5xx.json"),
            ),
            (503, "TEXT/HTML; level=1; q=1.0", Some("503.html")),
            (503, "text/html;q=0, */*", Some("5xx.json")),
            (503, "image/png", None),
            (503, "text/html;q=0", None),
            (429, "*/*", Some("429.txt")),
            (429, "text/html", None),
            (404, "*/*", None),
        ] {
            let found = found(&pages, status, accept);
            assert_eq!(found.as_deref(), wanted, "{status} {accept}");
        }
        let accepted =
            Accepted::of([b"text/html".as_slice(), b"application/json;q=0.1"].into_iter());
        assert_eq!(accepted.0, [4002, 402, 0]);
        assert_eq!(Accepted::of(std::iter::empty()), Accepted::default());
    }

    #[test]
    fn nonsense_in_accept_is_no_error() {
        let pages = pages(&["5xx.html"]);
        for accept in [
            ",,;",
            "/",
            "html",
            "text/html;q=NaN",
            "text/html;q=2",
            "text/html;q=",
            "text/html;;;",
            "text/html;q=0.123456789",
        ] {
            let _any = found(&pages, 503, accept);
        }
        assert_eq!(
            found(&pages, 503, "text/html;q=NaN").as_deref(),
            Some("5xx.html")
        );
    }

    #[test]
    fn other_files_are_refused() {
        let mut pages = Pages::default();
        for name in [
            "index.html",
            "503",
            "503.",
            ".html",
            "503.html~",
            "503.HTML",
            "3xx.html",
            "200.html",
            "600.html",
            "0503.html",
            "+50.html",
            "..data",
            "503.json.bak",
        ] {
            assert_eq!(pages.add(name, b""), Err(PageError::Name), "{name}");
        }
        let large = vec![0; PAGE_BYTES + 1];
        assert_eq!(pages.add("500.html", &large), Err(PageError::Large));
        for status in 400..464 {
            pages.add(&format!("{status}.html"), &large[1..]).unwrap();
        }
        assert_eq!(pages.add("500.html", b""), Err(PageError::Many));
        assert_eq!(pages.count(), 64);
    }
}
