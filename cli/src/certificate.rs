//! Signs certificates for the balancers of a run, with a certificate authority that belongs to
//! the user.
//!
//! The authority is made once and kept in `$XDG_DATA_HOME/scaledapp` (or
//! `~/.local/share/scaledapp`), so that the user has to trust it only once. `operator/plan`
//! validates the other settings of `spec.balancers.tls`, and `launch` passes them to the balancers.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
/// The authority's name in lists of trusted authorities.
const NAME: &str = "scaledapp local authority";
/// How long a certificate is valid: longer than a run usually lasts, and shorter than the longest
/// time that browsers accept.
const VALID: Duration = Duration::from_hours(24 * 90);
/// The validity of a certificate begins this long before it is signed, because the clock of a
/// virtual machine may be slow.
const SLACK: Duration = Duration::from_hours(1);

/// The authority of this user.
#[derive(Debug)]
pub(crate) struct Authority {
    key: KeyPair,
    /// The file with its certificate, for clients that should trust it.
    pub(crate) path: PathBuf,
}

/// A certificate and its key, as PEM.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// Returns the existing authority, or a new one.
    ///
    /// # Errors
    /// The user has no home directory, the stored key is invalid, or a new authority cannot be
    /// written.
    pub(crate) fn find() -> anyhow::Result<Self> {
        Self::at(&directory()?)
    }

    fn at(directory: &Path) -> anyhow::Result<Self> {
        let (path, key_path) = (directory.join(CERTIFICATE), directory.join(KEY));
        let existing = fs::read_to_string(&key_path)
            .ok()
            .filter(|_| path.is_file());
        if let Some(key) = existing {
            let key = KeyPair::from_pem(&key).with_context(|| {
                format!(
                    "{} is not a private key: remove the file and start again; that makes a new authority, which clients have to trust anew",
                    key_path.display()
                )
            })?;
            return Ok(Self { key, path });
        }
        let cannot = || format!("cannot make an authority in {}", directory.display());
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(directory).with_context(cannot)?;
        let key = KeyPair::generate().with_context(cannot)?;
        let certificate = params().self_signed(&key).with_context(cannot)?;
        write(&key_path, &key.serialize_pem(), 0o600).with_context(cannot)?;
        write(&path, &certificate.pem(), 0o644).with_context(cannot)?;
        Ok(Self { key, path })
    }

    /// Signs a certificate for a host name, and for addresses that clients may use instead.
    ///
    /// # Errors
    /// The host name is not allowed in a certificate, or signing fails.
    pub(crate) fn issue(&self, host: &str, addresses: &[IpAddr]) -> anyhow::Result<Issued> {
        let names = vec![host.to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names)?;
        let addresses = addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        params.distinguished_name.push(DnType::CommonName, host);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = SystemTime::now();
        params.not_before = (now - SLACK).into();
        params.not_after = (now + VALID).into();
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(self::params(), &self.key);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The content of the authority's certificate without its key. This content is always the same, so
/// the stored key suffices for signing.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, NAME);
    params
}

/// The directory of the authority's files.
///
/// # Errors
/// The user has no home directory.
fn directory() -> anyhow::Result<PathBuf> {
    let of = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let data = of("XDG_DATA_HOME").or_else(|| Some(of("HOME")?.join(".local/share")));
    let data = data
        .context("spec.balancers.tls needs a directory for a certificate authority: set HOME or XDG_DATA_HOME")?;
    Ok(data.join("scaledapp"))
}

/// Creates a file, or replaces it as a whole.
fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let partial = path.with_extension(format!("{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    options.open(&partial)?.write_all(text.as_bytes())?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_authority_is_made_once_and_only_its_user_can_read_the_key() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("a/scaledapp");
        let first = Authority::at(&directory).unwrap();
        let certificate = fs::read_to_string(&first.path).unwrap();
        let second = Authority::at(&directory).unwrap();
        assert_eq!(fs::read_to_string(&second.path).unwrap(), certificate);
        assert_eq!(second.key.serialize_pem(), first.key.serialize_pem());
        let mode = fs::metadata(directory.join(KEY)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let issued = second.issue("hello.apps.local", &["127.0.77.1".parse().unwrap()]);
        assert!(issued.unwrap().certificate.contains("BEGIN CERTIFICATE"));
    }

    #[test]
    fn a_broken_key_is_named_with_the_cure() {
        let home = tempfile::tempdir().unwrap();
        Authority::at(home.path()).unwrap();
        fs::write(home.path().join(KEY), "no key").unwrap();
        let error = Authority::at(home.path()).unwrap_err().to_string();
        assert!(
            error.contains("ca.key") && error.contains("remove the file"),
            "{error}"
        );
    }
}
