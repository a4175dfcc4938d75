//! The settings of the access log. Nothing is decided here.

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// One JSON object per line.
    Json,
    /// The combined format of nginx and of Apache's httpd.
    Combined,
}

/// Which requests are logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessLog {
    /// How lines are written.
    pub format: AccessFormat,
    /// How many percent of the requests are logged, from 1 to 100. Requests that have failed for
    /// a reason that is not their client's (5xx) are always logged.
    pub percent: u8,
    /// Whether query strings are logged.
    pub has_query: bool,
}
