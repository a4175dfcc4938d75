//! The limits of a connection, whichever side opens its streams.

/// The length of the header of each frame (RFC 9113 section 4.1).
pub(super) const FRAME_HEADER_BYTES: usize = 9;
/// How many streams one connection may have at the same time, whichever side opens them.
pub(super) const MAX_STREAMS: u32 = 100;
/// How many unused bytes one stream may have received. Connections with few streams get no larger
/// window, because the peer may use it on many streams before it receives a smaller one.
pub(super) const STREAM_WINDOW: u32 = 64 << 10;
/// How many unused bytes all streams of a connection together may have received. Bodies that stall
/// on all other streams must leave room for the last one (RFC 9113 section 5.2.2), so this is the
/// sum of the windows.
pub(super) const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;
/// How many bytes of one message may wait for a peer that reads slowly.
pub(super) const SEND_BYTES: usize = 64 << 10;
