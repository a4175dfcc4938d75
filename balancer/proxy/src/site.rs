//! What the owner of a proxy provides besides settings and endpoints: where lines of the access log go,
//! and pages for the proxy's own answers.
//!
//! Nothing is decided here.

use std::sync::Arc;

use tokio::sync::watch;

use crate::access::AccessSink;
use crate::pages::Pages;

/// What the owner of a proxy provides. By default, nothing.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Where the lines of the access log go. There are none if this or
    /// [`crate::Config::access_log`] is missing.
    pub access_sink: Option<Arc<dyn AccessSink>>,
    /// Pages for answers of the proxy itself. A new value is used from the next answer on.
    pub pages: Option<watch::Receiver<Arc<Pages>>>,
}
