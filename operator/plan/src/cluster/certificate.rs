//! The Certificate that cert-manager issues for an app with `balancers.tls.issuerRef`: as the
//! operator writes it, and as the API server returns it.
//!
//! cert-manager may not be installed, so its kind is not one of [`super::Kind`]: a watch of a kind
//! that does not exist would fail for ever. The operator reads the Certificate while it needs it.
//! What is written and reported is decided in `issuance`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, NamespaceResourceScope};
use serde::{Deserialize, Serialize};

use crate::Issuer;

/// The `apiVersion` of Certificates.
pub const CERTIFICATE_VERSION: &str = "cert-manager.io/v1";
/// Their kind.
pub const CERTIFICATE_KIND: &str = "Certificate";

/// A Certificate, as the operator writes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// [`CERTIFICATE_VERSION`].
    pub api_version: &'static str,
    /// [`CERTIFICATE_KIND`].
    pub kind: &'static str,
    /// Name, labels and owner.
    pub metadata: ObjectMeta,
    /// What it asks for.
    pub spec: CertificateSpec,
}

impl k8s_openapi::Resource for Certificate {
    const API_VERSION: &'static str = CERTIFICATE_VERSION;
    const GROUP: &'static str = "cert-manager.io";
    const KIND: &'static str = CERTIFICATE_KIND;
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "certificates";
    type Scope = NamespaceResourceScope;
}

impl Metadata for Certificate {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What a Certificate asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSpec {
    /// The Secret that cert-manager writes.
    pub secret_name: String,
    /// The host names.
    pub dns_names: Vec<String>,
    /// Who issues it.
    pub issuer_ref: Issuer,
}

/// What is known of an app's Certificate.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum LiveCertificate {
    /// The app needs none, or it has not been read yet.
    #[default]
    Unknown,
    /// There is none.
    Missing,
    /// It could not be read or written, for this reason.
    Failed(CertificateFailure),
    /// It exists.
    There(Box<StoredCertificate>),
}

/// Why a Certificate could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFailure {
    /// The cluster has no such kind.
    NoKind,
    /// The API server refused it with these words.
    Refused(String),
}

/// A Certificate as the API server returns it; other fields are ignored.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StoredCertificate {
    /// Its metadata.
    pub metadata: ObjectMeta,
    status: Status,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    message: String,
    observed_generation: Option<i64>,
}

impl LiveCertificate {
    /// Whether the issuer's certificate is in the Secret.
    pub fn is_issued(&self) -> bool {
        matches!(self, Self::There(live) if live.is_issued())
    }
}

impl StoredCertificate {
    fn condition(&self, kind: &str) -> Option<&Condition> {
        let mut all = self.status.conditions.iter();
        all.find(|condition| condition.kind == kind)
    }

    /// Whether the certificate in the Secret is the one that was asked for, and has not expired.
    pub(super) fn is_issued(&self) -> bool {
        self.condition("Ready").is_some_and(|ready| {
            ready.status == "True" && ready.observed_generation >= self.metadata.generation
        })
    }

    /// cert-manager's own words about what it waits for.
    pub(super) fn why_not(&self) -> Option<&str> {
        let all = ["Issuing", "Ready"].map(|kind| self.condition(kind));
        let all = all.into_iter().flatten();
        let mut messages = all.map(|it| it.message.as_str().trim());
        messages.find(|message| !message.is_empty())
    }
}
