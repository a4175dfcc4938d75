//! What a balancer presents over TLS: which certificate for which server name, which
//! versions, and session tickets that every balancer of an app can open.
//!
//! [`Files`] reads certificates, and [`server_config`] makes a `rustls` configuration from
//! them and from [`Settings`]. Nothing here uses sockets or reads a clock.

mod certificate;
mod config;
mod files;
mod names;
mod tickets;

pub use certificate::{Certificate, CertificateError};
pub use config::{Alpn, ClientCertificates, Settings, SettingsError, Version, server_config};
pub use files::{Files, FilesError, Pair};
pub use names::Names;
pub use tickets::Tickets;
