//! Log lines on stderr: `component TIME LEVEL message field=value`.
//!
//! The callers decide what is logged. `SCALEDAPP_LOG` sets the level (directives of
//! tracing-subscriber's `EnvFilter`, such as `debug` or `info,scaledapp_proxy=trace`;
//! default `info`). `SCALEDAPP_LOG_FORMAT` sets the format: `text`, or `json` for programs
//! that collect logs.
//!
//! Logging does not block the process: otherwise a pipe whose reader is stuck would stop
//! supervision, forwarding and DNS. One thread writes; lines that do not fit into its queue are
//! dropped and counted. If that thread cannot be started, lines are written directly, and writing
//! them can block.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use tracing::subscriber::set_global_default;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::output::Stream;
use crate::queue::Queue;

const VARIABLE: &str = "SCALEDAPP_LOG";
const FORMAT: &str = "SCALEDAPP_LOG_FORMAT";
/// How long the process waits at its end for a stderr that accepts nothing.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Keeps logging alive until the end of the program. Dropping it waits until everything
/// logged is written, or until a second has passed.
#[derive(Debug)]
#[must_use = "the last lines are lost without it: keep it until the end of main"]
pub struct Logging(());

impl Drop for Logging {
    fn drop(&mut self) {
        flush_log();
    }
}

/// Waits until everything logged is written, for at most a second.
pub fn flush_log() {
    if let Some(queue) = QUEUE.get() {
        // On a timeout there is no reader, and waiting longer would not help.
        let _unread = queue.flush(FLUSH_TIMEOUT);
    }
}

/// The number of log lines that were dropped because stderr accepted no more.
pub fn dropped_log_lines() -> u64 {
    QUEUE.get().map_or(0, Queue::dropped)
}

/// Prints a last line to stderr, after everything logged before; waits at most a second for
/// it if logging has begun.
pub fn say(line: &str) {
    let line = format!("{line}\n").into_bytes();
    match QUEUE.get() {
        Some(queue) => {
            queue.put(line);
            flush_log();
        }
        None => {
            // If stderr is closed, only the exit code reports the failure.
            let _closed = Stream::Stderr.write_whole(&line);
        }
    }
}

/// The target of log lines. If the thread of the queue could not be started, lines go
/// directly to stderr, even if that blocks.
#[derive(Debug)]
struct Lines(Option<Queue>);

/// A line being written: the formatter writes it in one piece.
#[derive(Debug)]
struct Line<'a>(&'a Lines);

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0.0 {
            Some(queue) => queue.put(bytes.to_vec()),
            None => Stream::Stderr.write_whole(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Whether output to a terminal is coloured: not if `NO_COLOR` has a value
/// (<https://no-color.org>) or the terminal reports that it has no colours.
pub fn colours_wanted() -> bool {
    let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
    unset("NO_COLOR") && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// Sends the log of the process to stderr under the name of `component`.
///
/// Only the first call in a process has an effect. A filter or format that cannot be read
/// is reported in the log, and the default is used.
pub fn init_logging(component: &'static str) -> Logging {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let (filter, refused) = filter(variable(VARIABLE).as_deref());
    let format = variable(FORMAT);
    let json = format.as_deref() == Some("json");
    let queue = Queue::start(|line| Stream::Stderr.write_whole(line));
    let queue = queue.ok().map(|queue| QUEUE.get_or_init(|| queue).clone());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Lines(queue))
        .with_ansi(!json && io::stderr().is_terminal() && colours_wanted())
        // Otherwise tracing-subscriber would report a closed stderr with `eprintln!`, which would
        // panic.
        .log_internal_errors(false);
    let line = Format::default().with_target(false);
    let set = if json {
        let event_format = Object {
            component,
            line: line.json().flatten_event(true),
        };
        let builder = builder.fmt_fields(JsonFields::new());
        set_global_default(builder.event_format(event_format).finish())
    } else {
        set_global_default(builder.event_format(Named { component, line }).finish())
    };
    if set.is_err() {
        return Logging(());
    }
    if let Some(reason) = refused {
        tracing::warn!(reason, "{VARIABLE} cannot be read; logging at info");
    }
    if let Some(format) = format.filter(|format| format != "json" && format != "text") {
        tracing::warn!(format, "{FORMAT} is neither text nor json; logging as text");
    }
    Logging(())
}

fn filter(wanted: Option<&str>) -> (EnvFilter, Option<String>) {
    match EnvFilter::try_new(wanted.unwrap_or("info")) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error.to_string())),
    }
}

struct Named {
    component: &'static str,
    line: Format,
}

impl<S, N> FormatEvent<S, N> for Named
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // Several programs of `scaledapp local` share one terminal.
        write!(writer, "{} ", self.component)?;
        self.line.format_event(context, writer, event)
    }
}

/// One JSON object per line, which names the component first.
struct Object {
    component: &'static str,
    line: Format<Json>,
}

impl<S, N> FormatEvent<S, N> for Object
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.line
            .format_event(context, Writer::new(&mut line), event)?;
        let fields = line.strip_prefix('{').unwrap_or(&line);
        write!(writer, r#"{{"component":"{}",{fields}"#, self.component)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_default_level_is_info() {
        let (filter, refused) = filter(None);
        assert_eq!(filter.to_string(), "info");
        assert_eq!(refused, None);
    }

    #[test]
    fn an_unreadable_filter_falls_back_to_info_with_the_reason() {
        let (filter, refused) = filter(Some("scaledapp=loudly"));
        assert_eq!(filter.to_string(), "info");
        assert!(refused.is_some());
    }

    #[test]
    fn a_line_in_json_is_one_object_that_names_its_component() {
        static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
        struct Written;
        impl io::Write for Written {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                WRITTEN.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let subscriber = tracing_subscriber::fmt()
            .with_writer(|| Written)
            .fmt_fields(JsonFields::new())
            .event_format(Object {
                component: "dns",
                line: Format::default()
                    .with_target(false)
                    .json()
                    .flatten_event(true),
            })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(zone = "a \"b\"", count = 2, "something\nhappened");
            tracing::info!("second");
        });
        let text = String::from_utf8(WRITTEN.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["component"], "dns");
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["message"], "something\nhappened");
        assert_eq!(lines[0]["zone"], "a \"b\"");
        assert_eq!(lines[0]["count"], 2);
    }
}
