//! The state of a request while it is carried out.
//!
//! Nothing is decided here: the steps are in the neighbouring files.

use scaledapp_select::Past;

use super::admission::{Admitted, admit};
use super::search::Search;
use crate::config::UpstreamProtocol;
use crate::http::body::{Flow, PassedTrailers};
use crate::http::client::Client;
use crate::http::request::RequestMeta;
use crate::thread::Thread;

/// A request while it is carried out.
pub(super) struct Exchange<'a> {
    pub(super) thread: &'a Thread,
    pub(super) client: &'a mut Client,
    pub(super) meta: RequestMeta,
    /// Its head and the part of its body that has arrived, on the way to an endpoint.
    pub(super) request: Flow,
    /// How many bytes of its body may be kept to be sent again.
    pub(super) replay_bytes: usize,
    pub(super) past: Past,
    pub(super) search: Search,
    /// Set if its path keeps ending workers and this request alone may proceed.
    pub(super) admitted: Option<Admitted<'a>>,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(
        thread: &'a Thread,
        client: &'a mut Client,
        meta: RequestMeta,
        head: Vec<u8>,
    ) -> Self {
        let replay_bytes = thread
            .memory
            .replay_bytes(thread.config.limits.replay_bytes);
        let mut request = Flow::new(head, meta.framing, meta.framing, replay_bytes);
        // Only a server of HTTP/2 gets trailer fields. A server that speaks HTTP/1.1 might add
        // them to the head that the proxy has checked.
        if thread.config.upstream == UpstreamProtocol::Http2 {
            request.pass_trailers(PassedTrailers::Safe);
        }
        let sessions = &thread.upstreams.sessions;
        let preferences = meta.returning.preferences(thread.config.role, sessions);
        Self {
            thread,
            client,
            request,
            replay_bytes,
            past: Past {
                deaths: u32::from(meta.is_repeated),
                ..Past::default()
            },
            search: Search::new(meta.until, preferences),
            admitted: None,
            meta,
        }
    }

    /// Protects the last worker from a path that keeps ending workers. An error means that
    /// the request is refused.
    pub(super) fn admit(&mut self) -> Result<(), ()> {
        let (search, past) = (&mut self.search, &mut self.past);
        self.admitted = admit(self.thread, &self.request, search, past)?;
        Ok(())
    }
}
