//! The `rustls` configuration of a balancer. This file decides which versions and protocols are
//! offered, how client certificates are checked, and whether there are session tickets. The
//! certificates are passed in.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerConfig, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::certificate::Certificate;
use crate::names::Names;
use crate::tickets::Tickets;

/// The oldest TLS version that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// The protocol that is negotiated inside TLS (ALPN, RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Alpn {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 if the client offers it, otherwise HTTP/1.1.
    Http2,
    /// Nothing is negotiated: the app decides the protocol.
    None,
}

/// Which certificates clients may present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM of the authorities.
    pub authorities: Vec<u8>,
    /// Whether a client without a certificate is refused. A client whose certificate is not
    /// from these authorities is refused in both cases.
    pub required: bool,
}

/// The settings that do not come from certificate files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The oldest version.
    pub min_version: Version,
    /// The protocols that are offered.
    pub alpn: Alpn,
    /// `None`: no certificate is requested from clients.
    pub clients: Option<ClientCertificates>,
}

/// Why certificates and settings cannot be used; the message names the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// There is no certificate to present.
    #[error("there is no certificate: TLS needs at least one")]
    NoCertificate,
    /// The PEM of the authorities contains no certificate.
    #[error("there is no certificate of an authority in it: give PEM with one or more")]
    NoAuthority,
    /// An authority cannot be read.
    #[error("an authority's certificate cannot be used: {0}")]
    Authority(String),
    /// `rustls` refuses the settings.
    #[error("{0}")]
    Refused(String),
}

/// The `rustls` configuration for these certificates, the first of which is the default.
///
/// `tickets` outlives a change of certificates. If clients present certificates, no session
/// is resumed: `rustls` would take the client's identity from the ticket, and would not
/// check again whether it is still valid.
///
/// # Errors
/// There is no certificate, the authorities of clients cannot be read, or `rustls` refuses
/// the settings.
pub fn server_config(
    certificates: &[Certificate],
    settings: &Settings,
    tickets: &Arc<Tickets>,
) -> Result<Arc<ServerConfig>, SettingsError> {
    let first = certificates.first().ok_or(SettingsError::NoCertificate)?;
    let mut config = with_clients(Arc::new(Names::new(certificates)), settings)?;
    config.alpn_protocols = match settings.alpn {
        Alpn::Http1 => vec![b"http/1.1".to_vec()],
        Alpn::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Alpn::None => Vec::new(),
    };
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    if settings.clients.is_none() {
        tickets.set_secrets(&[first.secret]);
        config.ticketer = Arc::clone(tickets) as Arc<dyn ProducesTickets>;
        config.send_tls13_tickets = 1;
    }
    Ok(Arc::new(config))
}

fn with_clients(names: Arc<Names>, settings: &Settings) -> Result<ServerConfig, SettingsError> {
    let refused = |error: rustls::Error| SettingsError::Refused(error.to_string());
    let provider = Arc::new(default_provider());
    let versions: &[&SupportedProtocolVersion] = match settings.min_version {
        Version::Tls12 => &[&TLS13, &TLS12],
        Version::Tls13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(refused)?;
    let Some(clients) = &settings.clients else {
        return Ok(builder.with_no_client_auth().with_cert_resolver(names));
    };
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&clients.authorities) {
        let authority = authority.map_err(|error| SettingsError::Authority(error.to_string()))?;
        roots
            .add(authority)
            .map_err(|error| SettingsError::Authority(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(SettingsError::NoAuthority);
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if !clients.required {
        verifier = verifier.allow_unauthenticated();
    }
    let verifier = verifier
        .build()
        .map_err(|error| SettingsError::Authority(error.to_string()))?;
    Ok(builder
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(names))
}
