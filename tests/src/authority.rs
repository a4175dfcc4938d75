//! A certificate authority for tests, with files of the certificates that it has signed.
//!
//! The test targets that need an authority include this file. It is no module of the library,
//! because `cargo xtask demo` links the library and would have to compile a crate for cryptography.

#![allow(dead_code, reason = "each target uses a part of it")]

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// A certificate authority, with a directory for its files.
pub(crate) struct Authority {
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
    files: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // If authority and certificates had the same subject, the certificates would look
        // self-signed.
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "authority of a test");
        Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
            files: TempDir::new().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Signs a certificate for `host`. Returns the PEM of the certificate and of its key.
    pub(crate) fn sign(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes a certificate for `host` into files. Returns the value of `--tls` for them.
    pub(crate) fn issue(&self, host: &str) -> String {
        let (certificate, key) = self.sign(host);
        let paths = [format!("{host}.crt"), format!("{host}.key")].map(|name| self.path(&name));
        fs::write(&paths[0], certificate).unwrap();
        fs::write(&paths[1], key).unwrap();
        format!("{}:{}", paths[0].display(), paths[1].display())
    }

    /// Writes the authority's own certificate into a file. Returns its path.
    pub(crate) fn root(&self) -> String {
        let path = self.path("ca.crt");
        fs::write(&path, self.issuer.pem()).unwrap();
        path.display().to_string()
    }
}
