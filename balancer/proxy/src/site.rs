//! What the owner of a proxy provides besides settings and endpoints: where lines go.
//!
//! Nothing is decided here.

use std::sync::Arc;

use crate::access::AccessSink;

/// What the owner of a proxy provides. By default, nothing.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Where the lines of the access log go. There are none if this or
    /// [`crate::Config::access_log`] is missing.
    pub access_sink: Option<Arc<dyn AccessSink>>,
}
