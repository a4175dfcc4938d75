//! Certificates in files that the kubelet or certbot, for example, replaces while the
//! process runs. This file decides whether the content of the files is new and complete. It
//! does not decide how often they are read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::certificate::{Certificate, CertificateError};

/// The longest file that is read, in bytes. A longer one is not a certificate chain.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A chain and its key, as `--tls CERT:KEY` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// PEM: the server's certificate first.
    pub chain: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((chain, key)) if !chain.is_empty() && !key.is_empty() => Ok(Self {
                chain: chain.into(),
                key: key.into(),
            }),
            _ => Err(format!(
                "{text:?} does not name two files: give CERT:KEY, such as tls.crt:tls.key"
            )),
        }
    }
}

/// Why no certificates can be read from the files. The certificates that were read before
/// stay in use.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        error: io::Error,
    },
    /// Two files cannot be used together.
    #[error("{}, {}: {error}", pair.chain.display(), pair.key.display())]
    Certificate {
        /// The two files.
        pair: Pair,
        /// Why they cannot be used.
        error: CertificateError,
    },
}

/// Pairs of files, and their content at the last success.
#[derive(Debug)]
pub struct Files {
    pairs: Vec<Pair>,
    held: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    /// Files that have not been read yet.
    pub const fn new(pairs: Vec<Pair>) -> Self {
        Self {
            pairs,
            held: Vec::new(),
        }
    }

    /// Forgets the content of the files, so that the next [`Self::look`] returns the
    /// certificates even if no file has changed.
    pub fn forget(&mut self) {
        self.held.clear();
    }

    /// The certificates, if the content of any file has changed since the last success, or
    /// if `anyway` is set. All files are read together: if a key is replaced a moment after
    /// its certificate, a call in between finds a mismatch, and the next call finds a
    /// change.
    ///
    /// # Errors
    /// A file cannot be read, or two of them cannot be used together.
    pub fn look(&mut self, anyway: bool) -> Result<Option<Vec<Certificate>>, FilesError> {
        let mut held = Vec::with_capacity(self.pairs.len());
        for pair in &self.pairs {
            held.push((read(&pair.chain)?, read(&pair.key)?));
        }
        if held == self.held && !anyway {
            return Ok(None);
        }
        let certificates = self.pairs.iter().zip(&held).map(|(pair, (chain, key))| {
            Certificate::from_pem(chain, key).map_err(|error| FilesError::Certificate {
                pair: pair.clone(),
                error,
            })
        });
        let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
        self.held = held;
        Ok(Some(certificates))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FilesError> {
    let failed = |error| FilesError::Read {
        path: path.to_owned(),
        error,
    };
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        let error = io::Error::other("it is longer than 1 MiB: is it PEM?");
        return Err(failed(error));
    }
    fs::read(path).map_err(failed)
}
