//! Whether a request may proceed if its path keeps ending workers.
//!
//! Which paths those are is decided in `suspects`.

use super::search::Search;
use crate::http::body::Flow;
use crate::suspects::{Admission, Name, Suspects};
use crate::thread::Thread;
use scaledapp_select::Past;

/// A request for a path that keeps ending workers. Until it is dropped, no other request
/// for that path may proceed.
pub(super) struct Admitted<'a> {
    suspects: &'a Suspects,
    name: Name,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.suspects.left(&self.name);
    }
}

/// Protects the last worker from a path that keeps ending workers. An error means that the
/// request is refused.
pub(super) fn admit<'a>(
    thread: &'a Thread,
    request: &Flow,
    search: &mut Search,
    past: &mut Past,
) -> Result<Option<Admitted<'a>>, ()> {
    if !request.is_taken() {
        // The head may no longer be available when the name is needed.
        search.name(thread, request);
    }
    let suspects = &*thread.upstreams.suspects;
    if !suspects.are_known() {
        return Ok(None);
    }
    let name = search.name(thread, request).clone();
    let ready = thread.upstreams.ready();
    match suspects.admit(thread.clock.now(), &name, ready) {
        Admission::Free => Ok(None),
        Admission::Refused => Err(()),
        Admission::Alone => {
            search.is_suspect = true;
            // The next worker that ends over this request is the last one allowed.
            past.deaths = past.deaths.max(1);
            Ok(Some(Admitted { suspects, name }))
        }
    }
}
