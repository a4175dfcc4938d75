//! Output for the user: lines, headings, times and tables. Decides nothing.

use std::io::Write;
use std::time::{Duration, Instant};

/// Prints one or several lines on standard output.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // The write fails if the reader closed the pipe; the exit code still shows the result.
    let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints lines that belong to the heading above, indented.
pub(crate) fn note(text: &str) {
    for line in text.lines() {
        say(format!("   {line}").trim_end());
    }
}

/// Prints a heading.
pub(crate) fn heading(text: &str) {
    say(&format!("\n== {text}"));
}

/// Prints an error on standard error.
pub(crate) fn complain(text: &str) {
    // The write fails if standard error is closed; the exit code still shows the result.
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// Prints `what` as a heading, does the work, and prints how long it took.
pub(crate) fn timed<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    heading(what);
    let start = Instant::now();
    let result = work();
    let took = seconds(start.elapsed());
    note(&match result {
        Ok(_) => format!("Done after {took}."),
        Err(_) => format!("Failed after {took}."),
    });
    result
}

/// A time as `12.3 s`.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A time as `12 ms`.
pub(crate) fn milliseconds(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// Formats rows below a header, with two spaces between columns and none at line ends.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned))
        .chain(rows)
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            ["unit".to_owned(), "7".to_owned()],
            ["local stories".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["LAYER", "PASSED"], rows),
            "LAYER          PASSED\nunit           7\nlocal stories"
        );
    }
}
