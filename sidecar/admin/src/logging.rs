//! Log lines on stderr: `component TIME LEVEL message field=value`.
//!
//! What is logged is the callers' decision; how much, that of `SCALEDAPP_LOG`
//! (directives of tracing-subscriber's `EnvFilter`, such as `debug` or
//! `info,scaledapp_proxy=trace`; default `info`).

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

const VARIABLE: &str = "SCALEDAPP_LOG";

/// Sends the process' log to stderr under the name of `component`.
///
/// The first call of the process counts, later ones change nothing. A filter
/// that cannot be read is reported in the log, and `info` taken instead.
pub fn init_logging(component: &'static str) {
    let wanted = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let (filter, refused) = filter(wanted.as_deref());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would report a closed stderr by `eprintln!`, which panics then.
        .log_internal_errors(false)
        .event_format(Named {
            component,
            line: Format::default().with_target(false),
        })
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        return;
    }
    if let Some(reason) = refused {
        tracing::warn!(reason, "{VARIABLE} cannot be read; logging at info");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_wish_the_level_is_info() {
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
}
