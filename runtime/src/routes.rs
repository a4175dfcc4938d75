//! What a program tells its admin port.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::watch;

/// The answer of a probe: `Err` is shown as `503` with the reason as text.
pub type Probe = Result<(), String>;

/// A text that takes a moment to be had; `Err` is shown as `503` with the reason.
pub type Page = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// A program's answers to its admin port. They are asked for on the admin
/// port's thread and must not block.
pub trait Routes: Send + Sync + 'static {
    /// `/livez`: is the program's loop turning?
    fn live(&self) -> Probe;

    /// `/readyz`: should new work come here?
    fn ready(&self) -> Probe;

    /// `/metrics`: `OpenMetrics` 1.0 text, with its closing `# EOF`.
    fn metrics(&self) -> String;

    /// `/status`: one JSON value. Neither environment, arguments nor log lines
    /// belong in it: everyone who reaches the port reads it.
    fn status(&self) -> serde_json::Value;

    /// `/watch`: a channel whose values are single JSON objects without a
    /// newline; `None` makes the route a 404. Who sends paces the changes.
    fn watch(&self) -> Option<watch::Receiver<Bytes>> {
        None
    }

    /// `/metrics/app`: the metrics of what the program supervises, as Prometheus
    /// text 0.0.4; `None` makes the route a 404. The future is awaited on the admin
    /// port's thread and may take its time, but must not block it.
    fn app_metrics(&self) -> Option<Page> {
        None
    }
}
