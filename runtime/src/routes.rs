//! What a program answers at its admin port.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::watch;

use crate::feed::Load;

/// The result of a probe: `Err` is answered as `503` with the reason as text.
pub type Probe = Result<(), String>;

/// A text that takes a moment to produce; `Err` is answered as `503` with the reason.
pub type Page = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// A program's answers at its admin port. The methods are called on the admin port's thread and
/// must not block.
pub trait Routes: Send + Sync + 'static {
    /// `/livez`: does the program's event loop run?
    fn live(&self) -> Probe;

    /// `/readyz`: should new work be sent here?
    fn ready(&self) -> Probe;

    /// `/metrics`: `OpenMetrics` 1.0 text, with its closing `# EOF`.
    fn metrics(&self) -> String;

    /// `/status`: one JSON value. It must contain no environment, arguments or log lines,
    /// because anyone who reaches the port can read it.
    fn status(&self) -> serde_json::Value;

    /// `/watch`: a channel whose values are single JSON objects without a newline; `None`
    /// makes the route a 404. The sender limits the rate of changes.
    fn watch(&self) -> Option<watch::Receiver<Bytes>> {
        None
    }

    /// `/load`: how much is asked of the program; `None` makes the route a 404. It is called once
    /// for each stream.
    fn load(&self) -> Option<Load> {
        None
    }

    /// `/metrics/app`: the metrics of the processes that the program supervises, as Prometheus text
    /// 0.0.4; `None` makes the route a 404. The future is awaited on the admin port's thread. It
    /// may take long, but must not block the thread.
    fn app_metrics(&self) -> Option<Page> {
        None
    }
}
