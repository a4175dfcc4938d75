//! Opens a URL in the user's browser.

use std::process::{Command, Stdio};

/// Opens a URL with `$BROWSER`, or with the desktop's own program. Returns what to say if there is
/// none.
pub(crate) fn open(url: &str) -> Option<String> {
    let given = std::env::var("BROWSER")
        .ok()
        .filter(|name| !name.is_empty());
    let programs = given
        .as_deref()
        .into_iter()
        .chain(["xdg-open", "open", "wslview"]);
    for program in programs {
        let started = Command::new(program)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if started.is_ok() {
            return None;
        }
    }
    Some(format!(
        "there is no browser here (BROWSER, xdg-open): open {url} yourself\n"
    ))
}
