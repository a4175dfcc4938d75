//! The paths below `target/kind`, and the keys of cached files.
//!
//! A key is a hash of all inputs, so the same content is made only once. A file with a key in its
//! name is complete, because it is made under another name and renamed at the end. Go keeps its own
//! caches elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use scaledapp_tests::binaries;
use scaledapp_units::Fnv1a;

/// Length of a key, in characters.
const KEY_LENGTH: usize = 12;

/// The directory in which `cargo xtask kind` keeps its files.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache below `target/` of the workspace.
    pub(crate) fn new() -> Self {
        Self {
            root: binaries::workspace().join("target/kind"),
        }
    }

    /// A path below the cache. Makes the directory of the path if necessary.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(crate) fn at(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.root.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        Ok(path)
    }

    /// The path of the cluster's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// The directory with links to `kubectl`, `kind` and `helm`.
    pub(crate) fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// The log file of a long step.
    pub(crate) fn log(&self, step: &str) -> PathBuf {
        self.root.join("logs").join(format!("{step}.log"))
    }

    /// A path below the cache for a file that is made from inputs with this `key`, such as
    /// `debian/node-0123456789ab.tar`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(crate) fn keyed(&self, name: &str, key: Key, suffix: &str) -> anyhow::Result<PathBuf> {
        self.at(&format!("{name}-{}{suffix}", key.text()))
    }

    /// Unless `path` exists, calls `make` with another path and renames the result. Then removes
    /// files of earlier keys, which are large. Returns whether `make` was called.
    ///
    /// # Errors
    /// `make` fails, or its result cannot be renamed.
    pub(crate) fn once(
        path: &Path,
        make: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        if path.exists() {
            return Ok(false);
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let partial = path.with_file_name(name);
        remove(&partial)?;
        make(&partial)?;
        fs::rename(&partial, path)
            .with_context(|| format!("cannot put {} in place", path.display()))?;
        let beside = path.parent().map(fs::read_dir);
        for entry in beside.into_iter().flatten().flatten().flatten() {
            if is_earlier(&entry.path(), path) {
                remove(&entry.path())?;
            }
        }
        Ok(true)
    }

    /// Removes the whole cache.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        remove(&self.root)
    }
}

/// Whether two names differ only in the key.
fn is_earlier(other: &Path, path: &Path) -> bool {
    let parts = |path: &Path| -> Option<(String, String)> {
        let name = path.file_name()?.to_str()?;
        let (before, rest) = name.rsplit_once('-')?;
        let (key, suffix) = rest.split_at_checked(KEY_LENGTH)?;
        let hexadecimal = key.bytes().all(|byte| byte.is_ascii_hexdigit());
        hexadecimal.then(|| (before.to_owned(), suffix.to_owned()))
    };
    other != path && parts(path).is_some_and(|this| parts(other) == Some(this))
}

/// Removes a file or directory, if it exists.
///
/// # Errors
/// The file or directory cannot be removed.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// A hash of trusted content (FNV-1a). It distinguishes versions, but does not resist attacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(Fnv1a);

impl Key {
    /// The key of no input.
    pub(crate) fn new() -> Self {
        Self(Fnv1a::default())
    }

    /// Adds an input. The hash includes the length of each input, so that two inputs cannot be
    /// taken for one.
    #[must_use]
    pub(crate) fn and(self, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        let length = (content.len() as u64).to_le_bytes();
        Self(self.0.with(length).with(content.iter().copied()))
    }

    /// Adds the content of a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn and_file(self, path: &Path) -> anyhow::Result<Self> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(self.and(content))
    }

    /// Adds all files below a directory: names, execute permissions, content.
    ///
    /// # Errors
    /// A file or directory cannot be read.
    pub(crate) fn and_tree(self, directory: &Path) -> anyhow::Result<Self> {
        let mut entries: Vec<PathBuf> = fs::read_dir(directory)
            .with_context(|| format!("cannot read {}", directory.display()))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        entries.sort();
        entries.iter().try_fold(self, |key, path| {
            let name = path.file_name().unwrap_or_default();
            let key = key.and(name.as_encoded_bytes());
            let found = fs::symlink_metadata(path)?;
            if found.is_dir() {
                key.and("directory").and_tree(path)
            } else if found.is_symlink() {
                Ok(key.and(fs::read_link(path)?.as_os_str().as_encoded_bytes()))
            } else {
                use std::os::unix::fs::PermissionsExt;
                let executable = found.permissions().mode() & 0o111 != 0;
                key.and([u8::from(executable)]).and_file(path)
            }
        })
    }

    /// The key as part of a file name.
    pub(crate) fn text(self) -> String {
        format!("{:0KEY_LENGTH$x}", self.0.get() >> 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_inputs_are_not_taken_for_one() {
        let key = Key::new();
        assert_ne!(key.and("ab").and("c"), key.and("a").and("bc"));
        assert_eq!(key.and("ab").text().len(), 12);
    }

    #[test]
    fn any_change_in_a_tree_changes_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/a"), "1").unwrap();
        let key = || Key::new().and_tree(directory.path()).unwrap();
        let first = key();
        assert_eq!(first, key());
        fs::write(at("d/a"), "2").unwrap();
        let second = key();
        assert_ne!(first, second);
        fs::rename(at("d/a"), at("d/b")).unwrap();
        assert_ne!(second, key());
    }

    #[test]
    fn only_files_of_earlier_keys_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let others = ["node-proxy-0123456789ab.tar", "node-x.tar", "node.tar"];
        for name in others.iter().chain(&["node-0123456789ab.tar"]) {
            fs::write(at(name), "").unwrap();
        }
        let new = at("node-ba9876543210.tar");
        Cache::once(&new, |partial| Ok(fs::write(partial, "")?)).unwrap();
        assert!(new.exists() && !at("node-0123456789ab.tar").exists());
        assert!(others.iter().all(|name| at(name).exists()));
    }

    #[test]
    fn a_file_whose_making_failed_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        let half = Cache::once(&path, |partial| {
            fs::write(partial, "half")?;
            anyhow::bail!("no space")
        });
        half.unwrap_err();
        assert!(!path.exists());
        let whole = |partial: &Path| Ok(fs::write(partial, "whole")?);
        assert!(Cache::once(&path, whole).unwrap());
        assert!(!Cache::once(&path, whole).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
    }
}
