//! What the owner of an endpoint knows of it: whether it serves, and what load it reports.
//!
//! The owner decides how it learns this; `choice` decides what a standing means for a request.

/// Whether an endpoint serves, as far as its owner knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// It serves.
    Serving = 0,
    /// Its owner has received nothing from it recently. It gets requests only while no
    /// endpoint is in a better state.
    Suspect = 1,
    /// It is shutting down and still answers. It gets requests only as a last resort.
    Draining = 2,
    /// It has reported that it cannot serve. It gets no requests.
    Unready = 3,
    /// It was found by a label, and nothing has shown yet that it belongs to the app. It
    /// gets requests only while this is true of all endpoints.
    Unknown = 4,
}

/// What an endpoint reports about its own load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Its capacity relative to other endpoints: the number of its ready workers.
    pub capacity: u32,
    /// Requests in flight there, from all proxies.
    pub in_flight: u32,
    /// Requests that wait there.
    pub queued: u32,
}
