//! Whether a request of a path that goes on ending workers may go on.
//!
//! Which paths those are is decided in `suspects`.

use super::search::Search;
use crate::body::Flow;
use crate::retry::Past;
use crate::suspects::{Admission, Name};
use crate::thread::Thread;

/// A request of a path that goes on ending workers; no other of that path may go on.
pub(super) struct Admitted<'a> {
    thread: &'a Thread,
    name: Name,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.thread.suspects.left(&self.name);
    }
}

/// Keeps a path that goes on ending workers from the last one.
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
    if !thread.suspects.are_known() {
        return Ok(None);
    }
    let name = search.name(thread, request).clone();
    let ready = thread.ready();
    match thread.suspects.admit(thread.clock.now(), &name, ready) {
        Admission::Free => Ok(None),
        Admission::Refused => Err(()),
        Admission::Alone => {
            search.is_suspect = true;
            // One more end is the last.
            past.deaths = past.deaths.max(1);
            Ok(Some(Admitted { thread, name }))
        }
    }
}
