//! `install DIR`: copies this binary to a directory from which the app's container can run it.
//!
//! An init container calls it with an emptyDir. The copy gets its final name only when it
//! is complete, so a restarted init container never leaves half a file for the app to run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// File name of the installed binary.
const NAME: &str = "sidecar";

/// Copies the running binary to `dir/sidecar` and makes it executable for everybody.
///
/// # Errors
/// `dir` is missing or not writable; the message says which, and what to mount.
pub fn install(dir: &Path) -> anyhow::Result<PathBuf> {
    let target = dir.join(NAME);
    let partial = dir.join(format!(".{NAME}.{}", std::process::id()));
    let copied = fs::copy("/proc/self/exe", &partial)
        .and_then(|_| fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&partial, &target));
    if copied.is_err() {
        // If the copy could not even begin, there is nothing to clean up.
        let _absent = fs::remove_file(&partial);
    }
    copied.with_context(|| {
        format!(
            "cannot install into {}: it must be an existing, writable directory (an emptyDir mount)",
            dir.display()
        )
    })?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_complete_executable_and_the_only_file() {
        let dir = tempfile::tempdir().unwrap();
        for _again in 0..2 {
            let target = install(dir.path()).unwrap();
            let metadata = fs::metadata(&target).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o755);
            assert_eq!(
                metadata.len(),
                fs::metadata("/proc/self/exe").unwrap().len()
            );
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let message = format!("{:#}", install(Path::new("/nonexistent")).unwrap_err());
        assert!(message.contains("/nonexistent") && message.contains("emptyDir"));
    }
}
