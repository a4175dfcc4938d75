//! Whether a request of a path that goes on ending workers may go on.
//!
//! Which paths those are is decided in `suspects`.

use super::search::Search;
use crate::http::body::Flow;
use crate::suspects::{Admission, Name, Suspects};
use crate::thread::Thread;
use scaledapp_select::Past;

/// A request of a path that goes on ending workers; no other of that path may go on.
pub(super) struct Admitted<'a> {
    suspects: &'a Suspects,
    name: Name,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.suspects.left(&self.name);
    }
}

/// Keeps a path that goes on ending workers from the last one. An error is a refusal.
pub(super) fn admit<'a>(
    thread: &'a Thread,
    request: &Flow,
    search: &mut Search,
    past: &mut Past,
) -> Result<Option<Admitted<'a>>, ()> {
    if !request.is_taken() {
        // Its head may be gone when it is needed.
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
            // The next end of a worker is the last.
            past.deaths = past.deaths.max(1);
            Ok(Some(Admitted { suspects, name }))
        }
    }
}
