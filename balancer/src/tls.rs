//! TLS at the balancer's listener: sessions of `rustls` for the proxy, with the
//! certificates that are in the files at the moment.
//!
//! This file decides when files are read again. What they must contain, and what is negotiated, is
//! decided in `scaledapp-tls`.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::{Error, HandshakeKind, InvalidMessage, ServerConfig, ServerConnection};
use scaledapp_proxy::{Handshake, Security, Session, SessionError, Settled};
use scaledapp_tls::{
    Certificate, ClientCertificates, Files, Settings, Tickets, Version, server_config,
};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::expiry::{Expiry, Warnings};
use crate::settings::Tls;

/// How often the files are checked: a changed certificate is in use within two seconds.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The largest file of authorities, in bytes.
const AUTHORITY_FILE_BYTES: u64 = 4 << 20;

/// The TLS of a listener, whose certificates may change while it is in use.
#[derive(Debug)]
pub(crate) struct Certificates {
    config: ArcSwap<ServerConfig>,
    pub(crate) expiry: Arc<Expiry>,
}

impl Security for Certificates {
    fn session(&self) -> io::Result<Box<dyn Session>> {
        let config = self.config.load_full();
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Box::new(OneSession {
            connection,
            client_certificate: None,
        }))
    }
}

/// The files, and what has been read from them.
#[derive(Debug)]
pub(crate) struct Loader {
    files: Files,
    tls: Tls,
    /// The authorities of clients, as they were last read.
    authorities: Option<Vec<u8>>,
    tickets: Arc<Tickets>,
    expiry: Arc<Expiry>,
}

impl Loader {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read or used; the message names it and the cure.
    pub(crate) fn start(tls: Tls) -> anyhow::Result<(Self, Arc<Certificates>)> {
        let tickets = Tickets::new(seconds_since_1970);
        let mut loader = Self {
            files: Files::new(tls.pairs.clone()),
            tls,
            authorities: None,
            tickets: Arc::new(tickets),
            expiry: Arc::default(),
        };
        let config = loader.look()?.context("--tls names no certificate")?;
        let certificates = Certificates {
            config: ArcSwap::new(config),
            expiry: Arc::clone(&loader.expiry),
        };
        Ok((loader, Arc::new(certificates)))
    }

    /// The new configuration, if the content of a file has changed.
    fn look(&mut self) -> anyhow::Result<Option<Arc<ServerConfig>>> {
        let authorities = match &self.tls.client_authorities {
            None => None,
            Some(path) => {
                let read = || {
                    if std::fs::metadata(path)?.len() > AUTHORITY_FILE_BYTES {
                        return Err(io::Error::other("it is longer than 4 MiB: is it PEM?"));
                    }
                    std::fs::read(path)
                };
                let read = read();
                Some(read.with_context(|| format!("{} (--tls-client-ca)", path.display()))?)
            }
        };
        let is_same = authorities == self.authorities;
        let Some(certificates) = self.files.look(!is_same)? else {
            return Ok(None);
        };
        let settings = Settings {
            min_version: if self.tls.is_13_only {
                Version::Tls13
            } else {
                Version::Tls12
            },
            alpn: self.tls.alpn,
            clients: authorities.as_ref().map(|authorities| ClientCertificates {
                authorities: authorities.clone(),
                required: !self.tls.clients_are_optional,
            }),
        };
        let made = server_config(&certificates, &settings, &self.tickets);
        let config = match (made, &self.tls.client_authorities) {
            (Err(error), Some(path)) => {
                self.files.forget();
                let path = path.display();
                return Err(error).with_context(|| format!("--tls-client-ca {path}"));
            }
            (made, _) => made?,
        };
        self.authorities = authorities;
        self.expiry.set(&certificates);
        let names: Vec<&str> = certificates
            .iter()
            .flat_map(Certificate::names)
            .map(String::as_str)
            .collect();
        tracing::info!(names = names.join(" "), "certificates are in use");
        Ok(Some(config))
    }

    /// Watches the files for changes, and reads them immediately when `again` is notified.
    /// Files that cannot be used change nothing, and the log says so once.
    pub(crate) async fn follow(mut self, certificates: Arc<Certificates>, again: Arc<Notify>) {
        let mut said = String::new();
        let mut warnings = Warnings::default();
        loop {
            for warning in warnings.due(&self.expiry, seconds_since_1970()) {
                tracing::warn!("{warning}");
            }
            tokio::select! {
                () = sleep(LOOK_INTERVAL) => {}
                () = again.notified() => {}
            }
            match self.look() {
                Ok(Some(config)) => {
                    certificates.config.store(config);
                    warnings.again();
                    said.clear();
                }
                Ok(None) => said.clear(),
                Err(error) => {
                    let error = format!("{error:#}");
                    if error != said {
                        tracing::warn!("the previous certificates stay in use: {error}");
                        said = error;
                    }
                }
            }
        }
    }
}

fn seconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// One client's session.
#[derive(Debug)]
struct OneSession {
    connection: ServerConnection,
    client_certificate: Option<String>,
}

impl Session for OneSession {
    fn read_tls(&mut self, socket: &mut dyn Read) -> io::Result<usize> {
        self.connection.read_tls(socket)
    }

    fn process(&mut self) -> Result<(), SessionError> {
        let was_settled = !self.connection.is_handshaking();
        match self.connection.process_new_packets() {
            Ok(_) => {}
            Err(Error::InvalidMessage(InvalidMessage::InvalidContentType)) if !was_settled => {
                return Err(SessionError::NotTls);
            }
            Err(error) => return Err(SessionError::Failed(error.to_string())),
        }
        if !was_settled && !self.connection.is_handshaking() {
            let shown = self.connection.peer_certificates();
            self.client_certificate = shown.and_then(<[_]>::first).map(field_value);
        }
        Ok(())
    }

    fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    fn write_tls(&mut self, socket: &mut dyn Write) -> io::Result<usize> {
        self.connection.write_tls(socket)
    }

    fn available(&mut self) -> io::Result<usize> {
        self.connection.reader().fill_buf().map(<[u8]>::len)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.connection.reader().read(into)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.connection.writer().write(bytes)
    }

    fn send_end(&mut self) {
        self.connection.send_close_notify();
    }

    fn settled(&self) -> Option<Settled> {
        if self.connection.is_handshaking() {
            return None;
        }
        Some(Settled {
            handshake: match self.connection.handshake_kind()? {
                HandshakeKind::Full => Handshake::Full,
                HandshakeKind::FullWithHelloRetryRequest => Handshake::Retried,
                HandshakeKind::Resumed => Handshake::Resumed,
            },
            is_http2: self.connection.alpn_protocol() == Some(b"h2"),
            version: match self.connection.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
        })
    }

    fn client_certificate(&self) -> Option<&str> {
        self.client_certificate.as_deref()
    }
}

/// The value of `Client-Cert` (RFC 9440 section 2.1, RFC 8941 section 3.3.5): base64
/// between colons.
fn field_value(certificate: &CertificateDer<'_>) -> String {
    format!(":{}:", STANDARD.encode(certificate))
}
