//! TLS at the balancers: certificates, their issuer, and certificates of clients.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// TLS at the balancers. When a Secret changes, the kubelet updates the files in the pods
/// within about a minute, and the balancers use them two seconds later at the latest.
/// `scaledapp local` reads no Secrets: it signs a certificate for the host name itself, with
/// its own certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// A Secret in the app's namespace, as cert-manager makes it: `tls.crt` is the certificate
    /// chain, and `tls.key` is its private key.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [{"rule": "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')", "message": "cannot be the name of a Secret: use a-z, 0-9, - and ., such as hello-tls"}]))]
    pub secret_name: String,
    /// Who issues the certificate; by default, `secretName` must exist already. Only in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
    /// More Secrets, with certificates for other host names. A client gets the certificate for
    /// the name that it asks for; if there is none, it gets that of `secretName`.
    #[serde(
        default,
        deserialize_with = "crate::values::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set", "x-kubernetes-validations" = [{"rule": "self.all(name, name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'))", "message": "has an entry that cannot be the name of a Secret: use a-z, 0-9, - and ., such as hello-tls"}]))]
    pub additional_secret_names: Vec<String>,
    /// The oldest version of TLS; "1.2" by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersion>,
    /// Whether requests on port 80 are redirected to https (308), except those for
    /// /.well-known/acme-challenge/; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<bool>,
    /// For how long browsers shall use only https (Strict-Transport-Security); by default
    /// there is no such header. Browsers remember it after it has been removed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) >= duration('1s') && duration(self) <= duration('17520h'))", "message": "is out of range: give 1s to 17520h (two years)"}]))]
    pub hsts: Option<Duration>,
    /// Certificates that clients must show; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ClientCertificates>,
}

/// The oldest version of TLS that the balancers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2 and 1.3.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 alone.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Certificates that clients must show. The app gets them as `Client-Cert` (RFC 9440).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificates {
    /// A Secret with `ca.crt`: the authorities that sign clients' certificates.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [{"rule": "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')", "message": "cannot be the name of a Secret: use a-z, 0-9, - and ., such as clients-ca"}]))]
    pub secret_name: String,
    /// Whether a client without a certificate is rejected; `Require` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ClientCertificateMode>,
}

/// Whether a client may have no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ClientCertificateMode {
    /// Each client must show a certificate of these authorities.
    Require,
    /// A client may show a certificate of these authorities, or none.
    Optional,
}

/// An issuer of cert-manager. The operator makes a Certificate for `dns.hostname`, and cert-manager
/// writes the Secret and renews it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuerRef {
    /// The issuer's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// `Issuer`, in the app's namespace, by default; or `ClusterIssuer`, or a kind of `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: Option<String>,
    /// The API group of an external issuer; cert-manager's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub group: Option<String>,
}
