//! One certificate chain with its private key, read from PEM. This file decides whether the
//! two belong together, and which names the chain is for. It does not decide when they are
//! read.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use webpki::EndEntityCert;

/// Why a chain and a key cannot be used together. The message names the cure; the caller
/// adds the names of the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No `CERTIFICATE` block.
    #[error(
        "there is no certificate in it: give PEM, the server's own certificate first, then those that issued it"
    )]
    NoCertificate,
    /// No private key, or one in a form that is not supported.
    #[error(
        "there is no private key in it: give PEM of PKCS#8 (BEGIN PRIVATE KEY), SEC1 or PKCS#1, without a passphrase"
    )]
    NoKey,
    /// The key cannot sign, for example because TLS servers do not use its algorithm.
    #[error(
        "the private key cannot be used: {0}; use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits and more"
    )]
    Key(String),
    /// The first certificate belongs to another key.
    #[error(
        "the certificate does not belong to this key: the server's own certificate must come first in the chain, and both must be replaced together"
    )]
    Mismatch,
    /// The first certificate, or the PEM of the chain, cannot be read.
    #[error("the first certificate cannot be read: {0}")]
    Malformed(String),
}

/// A chain with its key, ready to sign.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub(crate) key: Arc<CertifiedKey>,
    names: Vec<String>,
    expires_at: u64,
    /// The hash of the private key. Ticket keys are derived from it, so every balancer that
    /// has the private key can derive them.
    pub(crate) secret: [u8; 32],
}

impl Certificate {
    /// Reads a chain and its key, both PEM.
    ///
    /// # Errors
    /// One of them is missing or cannot be read, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| CertificateError::Malformed(error.to_string()))?;
        let first = chain.first().ok_or(CertificateError::NoCertificate)?;
        let names = names_of(first)?;
        let expires_at = end_of(first)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::NoKey)?;
        let mut secret = [0; 32];
        secret.copy_from_slice(digest(&SHA256, key.secret_der()).as_ref());
        let key = match CertifiedKey::from_der(chain, key, &default_provider()) {
            Ok(key) => key,
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(CertificateError::Mismatch);
            }
            Err(error) => return Err(CertificateError::Key(error.to_string())),
        };
        Ok(Self {
            key: Arc::new(key),
            names,
            expires_at,
            secret,
        })
    }

    /// The DNS names that it is for, in lower case; `*.` in front stands for one label.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The last second in which it is valid (`notAfter`), in seconds since 1970.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }
}

fn end_of(certificate: &CertificateDer<'_>) -> Result<u64, CertificateError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| CertificateError::Malformed(error.to_string()))?;
    // A certificate that ended before 1970 has expired as well.
    Ok(parsed
        .validity()
        .not_after
        .timestamp()
        .try_into()
        .unwrap_or(0))
}

fn names_of(certificate: &CertificateDer<'_>) -> Result<Vec<String>, CertificateError> {
    let parsed = EndEntityCert::try_from(certificate)
        .map_err(|error| CertificateError::Malformed(error.to_string()))?;
    Ok(parsed
        .valid_dns_names()
        .map(str::to_ascii_lowercase)
        .collect())
}
