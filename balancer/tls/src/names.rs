//! Which certificate is presented for which server name. The choice depends on nothing
//! else.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::Certificate;

/// Certificates by the names that they are for. An exact name is preferred to a wildcard,
/// which stands for one label (RFC 9525 section 6.3). A client gets the first certificate
/// if it names no server, or a server for which there is no certificate.
#[derive(Debug)]
pub struct Names {
    exact: BTreeMap<String, Arc<CertifiedKey>>,
    /// By the part of the name after `*.`.
    wildcard: BTreeMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
}

impl Names {
    /// If two certificates are for the same name, the earlier one is presented.
    pub fn new(certificates: &[Certificate]) -> Self {
        let mut names = Self {
            exact: BTreeMap::new(),
            wildcard: BTreeMap::new(),
            first: certificates.first().map(|first| Arc::clone(&first.key)),
        };
        for certificate in certificates {
            for name in certificate.names() {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut names.wildcard, parent),
                    None => (&mut names.exact, &**name),
                };
                map.entry(name.to_owned())
                    .or_insert_with(|| Arc::clone(&certificate.key));
            }
        }
        names
    }

    /// The certificate for a server name in lower case, or for a client that names none.
    pub fn find(&self, server_name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let name = server_name.unwrap_or_default();
        let parent = name.split_once('.').map_or("", |(_, parent)| parent);
        self.exact
            .get(name)
            .or_else(|| self.wildcard.get(parent))
            .or(self.first.as_ref())
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls passes names on as the client sent them, which may be in upper case.
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.find(name.as_deref()).cloned()
    }
}
