//! Reads and writes pages of metrics.
//!
//! This module reads the Prometheus text format 0.0.4 and `OpenMetrics` 1.0. It writes the former,
//! because every scraper accepts it. Timestamps and exemplars are left out: they belong to the
//! worker's scrape, not to the supervisor's. A malformed line is skipped and counted. `merge`
//! decides how the pages of several workers become one, `scrape` which workers are asked and when.

mod merge;
mod model;

use std::collections::HashMap;
use std::fmt::Write;

use model::{Kind, Labels, Sample, index_of};

pub(crate) use merge::{Sums, label};
pub(crate) use model::Exposition;

/// What the comments read so far declare for a name. Which samples this applies to is not
/// known yet.
#[derive(Debug, Default, Clone)]
struct Declared {
    kind: Option<Kind>,
    help: Option<String>,
}

/// Parses a page. It never fails, because a worker's broken line must not hide the rest.
pub(crate) fn parse(text: &str) -> Exposition {
    let mut page = Exposition::default();
    let mut said: HashMap<&str, Declared> = HashMap::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        if let Some(comment) = line.strip_prefix('#') {
            read_comment(comment.trim_start(), &mut said, &mut page);
            continue;
        }
        match read_sample(line) {
            Some(sample) => add(&mut page, &said, sample),
            None => page.skipped += 1,
        }
    }
    page.families
        .retain(|(_, family)| !family.samples.is_empty());
    page.index = index_of(&page.families);
    page
}

fn read_comment<'a>(
    comment: &'a str,
    said: &mut HashMap<&'a str, Declared>,
    page: &mut Exposition,
) {
    let mut words = comment.splitn(3, [' ', '\t']);
    match (words.next(), words.next(), words.next()) {
        (Some("TYPE"), Some(name), Some(word)) => {
            let Some(kind) = Kind::parse(word.trim()) else {
                page.skipped += 1;
                return;
            };
            let before = &mut said.entry(name).or_default().kind;
            match before {
                Some(before) if *before != kind => page.conflicts += 1,
                _ => *before = Some(kind),
            }
        }
        (Some("HELP"), Some(name), help) => {
            let before = &mut said.entry(name).or_default().help;
            before.get_or_insert_with(|| help.unwrap_or("").to_owned());
        }
        // UNIT, EOF and free-text comments.
        _ => {}
    }
}

/// Adds a sample to its family. The sample's name and the comments before it determine the family.
fn add(page: &mut Exposition, said: &HashMap<&str, Declared>, sample: Sample) {
    let (name, kind, help) = place(said, &sample.name);
    let help = help.cloned();
    let name = name.to_owned();
    let family = page.family_or(&name, kind);
    if family.help.is_none() {
        family.help = help;
    }
    family.samples.push(sample);
}

fn place<'a>(
    said: &'a HashMap<&str, Declared>,
    name: &'a str,
) -> (&'a str, Kind, Option<&'a String>) {
    let of = |family: &str| said.get(family);
    if let Some(Declared {
        kind: Some(kind),
        help,
    }) = of(name)
    {
        return (name, *kind, help.as_ref());
    }
    for (suffix, kinds) in [
        ("_bucket", &[Kind::Histogram][..]),
        ("_sum", &[Kind::Histogram, Kind::Summary]),
        ("_count", &[Kind::Histogram, Kind::Summary]),
    ] {
        let base = name.strip_suffix(suffix);
        if let Some((base, said)) = base.and_then(|base| Some((base, of(base)?)))
            && let Some(kind) = said.kind.filter(|kind| kinds.contains(kind))
        {
            return (base, kind, said.help.as_ref());
        }
    }
    // In OpenMetrics the type is declared for the name without the suffix; in 0.0.4 the
    // whole name is the family.
    for (suffix, theirs, ours) in [
        ("_total", Kind::Counter, Kind::Counter),
        ("_info", Kind::Gauge, Kind::Gauge),
        ("_gcount", Kind::Untyped, Kind::Gauge),
        ("_gsum", Kind::Untyped, Kind::Gauge),
        ("_bucket", Kind::Untyped, Kind::Gauge),
    ] {
        let base = name.strip_suffix(suffix);
        if let Some(said) = base.and_then(of)
            && said.kind == Some(theirs)
        {
            return (name, ours, said.help.as_ref());
        }
    }
    if let Some(base) = name.strip_suffix("_created")
        && of(base).is_some()
    {
        return (name, Kind::Gauge, None);
    }
    (
        name,
        Kind::Untyped,
        of(name).and_then(|said| said.help.as_ref()),
    )
}

fn read_sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' ', '\t'])?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name, true) {
        return None;
    }
    rest = rest.trim_start();
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        (labels, rest) = read_labels(inside)?;
    }
    let mut words = rest.split_ascii_whitespace();
    let value = read_value(words.next()?)?;
    match words.next() {
        // An exemplar may follow the value or the timestamp.
        None | Some("#") => {}
        Some(timestamp) => {
            timestamp.parse::<f64>().ok()?;
            if words.next().is_some_and(|word| word != "#") {
                return None;
            }
        }
    }
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

fn is_name(name: &str, colons: bool) -> bool {
    let fits = |byte: u8| byte == b'_' || byte.is_ascii_alphabetic() || (colons && byte == b':');
    let mut bytes = name.bytes();
    bytes.next().is_some_and(fits) && bytes.all(|byte| fits(byte) || byte.is_ascii_digit())
}

/// The labels, and the text after the closing brace.
fn read_labels(mut rest: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end();
        if !is_name(name, false) || labels.iter().any(|(known, _)| known == name) {
            return None;
        }
        let (value, after) = read_quoted(after.trim_start())?;
        labels.push((name.to_owned(), value));
        rest = after.trim_start();
        if let Some(more) = rest.strip_prefix(',') {
            rest = more;
        } else if !rest.starts_with('}') {
            return None;
        }
    }
}

fn read_quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other @ ('"' | '\\') => value.push(other),
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    None
}

fn read_value(word: &str) -> Option<f64> {
    // Rust parses "inf" and "infinity" in any case, as both formats require.
    word.parse().ok()
}

/// Writes a page as Prometheus text 0.0.4.
pub(crate) fn render(page: &Exposition) -> String {
    let mut text = String::new();
    for (name, family) in &page.families {
        // Writing into a String cannot fail.
        if let Some(help) = &family.help {
            let _infallible = writeln!(text, "# HELP {name} {help}");
        }
        let _infallible = writeln!(text, "# TYPE {name} {}", family.kind.as_str());
        for sample in &family.samples {
            render_sample(&mut text, sample);
        }
    }
    text
}

fn render_sample(text: &mut String, sample: &Sample) {
    text.push_str(&sample.name);
    for (at, (name, value)) in sample.labels.iter().enumerate() {
        text.push(if at == 0 { '{' } else { ',' });
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !sample.labels.is_empty() {
        text.push('}');
    }
    let value = sample.value;
    // Writing into a String cannot fail.
    let _infallible = if value.is_nan() {
        writeln!(text, " NaN")
    } else if value.is_infinite() {
        writeln!(text, " {}Inf", if value > 0.0 { '+' } else { '-' })
    } else if value == 0.0 || (1e-5..1e17).contains(&value.abs()) {
        writeln!(text, " {value}")
    } else {
        writeln!(text, " {value:e}")
    };
}

#[cfg(test)]
#[path = "exposition/tests.rs"]
mod tests;
