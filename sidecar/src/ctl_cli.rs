//! `ctl` as a command: asks, and prints for people or for programs.

use std::fmt::Write;

use serde_json::Value;

use crate::cli::{CtlArgs, CtlVerb, Output};
use crate::ctl::{self, Request};

/// Carries out one `ctl` command; the text to print.
///
/// # Errors
/// Nobody answered, or it was not done.
pub fn run(args: &CtlArgs) -> anyhow::Result<String> {
    let request = match &args.verb {
        CtlVerb::Status { .. } => Request::Status,
        CtlVerb::Scale { workers } => Request::Scale { workers: *workers },
        CtlVerb::Reload => Request::Reload,
        CtlVerb::Restart { slot } => Request::Restart { slot: *slot },
        CtlVerb::Signal { signal } => Request::Signal {
            number: signal.as_raw(),
        },
        CtlVerb::Logs => Request::Logs,
    };
    let answer = ctl::call(args.admin, &request, args.timeout)?;
    Ok(match &args.verb {
        CtlVerb::Status {
            output: Output::Json,
        } => format!("{answer}\n"),
        CtlVerb::Status {
            output: Output::Table,
        } => table(&answer),
        CtlVerb::Logs => tails(&answer),
        _ => String::new(),
    })
}

/// A status for people.
pub fn table(status: &Value) -> String {
    let mut text = format!(
        "{} of {} workers ready, generation {}, {} dispatch by {}\n",
        status["ready"],
        status["desired"],
        status["generation"],
        status["dispatch"].as_str().unwrap_or("?"),
        status["mechanism"].as_str().unwrap_or("?"),
    );
    let header = [
        "SLOT",
        "PID",
        "STATE",
        "GENERATION",
        "RESTARTS",
        "IN-FLIGHT",
        "RSS",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    for worker in status["workers"].as_array().into_iter().flatten() {
        let rss = worker["rssBytes"].as_u64().unwrap_or(0);
        rows.push([
            worker["slot"].to_string(),
            worker["pid"].to_string(),
            worker["state"].as_str().unwrap_or("?").to_owned(),
            worker["generation"].to_string(),
            worker["restarts"].to_string(),
            worker["inFlight"].to_string(),
            format!("{:.1}Mi", rss as f64 / (1024.0 * 1024.0)),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing into a String cannot fail.
            let _infallible = write!(text, "{cell:<width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    for worker in status["workers"].as_array().into_iter().flatten() {
        if let Some(port) = worker["listensElsewhere"].as_u64() {
            // Writing into a String cannot fail.
            let _infallible = writeln!(
                text,
                "The worker in slot {} listens on {port}, which is not --port.",
                worker["slot"]
            );
        }
    }
    text
}

fn tails(slots: &Value) -> String {
    let mut text = String::new();
    for (slot, lines) in slots.as_object().into_iter().flatten() {
        for line in lines.as_array().into_iter().flatten() {
            // Writing into a String cannot fail.
            let _infallible = writeln!(text, "{slot} | {}", line.as_str().unwrap_or(""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_becomes_an_aligned_table() {
        let status = serde_json::json!({
            "mechanism": "notify", "dispatch": "request", "generation": 2, "desired": 2, "ready": 2,
            "workers": [
                {"slot": 0, "pid": 7, "state": "Ready", "generation": 2, "restarts": 0, "inFlight": 3, "rssBytes": 1_048_576},
                {"slot": 1, "pid": 12_345, "state": "Draining", "generation": 1, "restarts": 10, "inFlight": 0, "rssBytes": 0, "listensElsewhere": 8080},
            ],
        });
        let expected = "\
2 of 2 workers ready, generation 2, request dispatch by notify
SLOT  PID    STATE     GENERATION  RESTARTS  IN-FLIGHT  RSS
0     7      Ready     2           0         3          1.0Mi
1     12345  Draining  1           10        0          0.0Mi
The worker in slot 1 listens on 8080, which is not --port.
";
        assert_eq!(table(&status), expected);
    }
}
