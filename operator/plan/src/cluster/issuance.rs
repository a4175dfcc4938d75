//! Decides what the Certificate of an app with `balancers.tls.issuerRef` asks for, whether it has to
//! be written, and what is reported about it.
//!
//! A Certificate is deleted together with the app. It stays when `issuerRef` is removed, because
//! the operator has no right to delete Certificates, and the Secret is still in use.

use std::time::Duration;

use scaledapp_crds::words::{annotation, component};

use super::certificate::{
    CERTIFICATE_KIND, CERTIFICATE_VERSION, Certificate, CertificateFailure, CertificateSpec,
    LiveCertificate,
};
use super::meta::{annotate, annotation as annotated, cut, hash, json};
use super::{App, Observed};

/// cert-manager writes a self-signed certificate into the Secret until the issuer has answered.
/// Without it, the balancers could not start before the issuer has answered, and an issuer that
/// checks the host name over HTTP would find nobody there.
const TEMPORARY: &str = "cert-manager.io/issue-temporary-certificate";

/// The longest quotation of cert-manager's message, in bytes.
const MAX_QUOTED_BYTES: usize = 512;

/// How often an unfinished Certificate is read again.
const UNFINISHED: Duration = Duration::from_secs(5);

/// The Certificate that the app needs; `None` without `issuerRef`. It has the name of the app.
pub(super) fn certificate(app: &App) -> Option<Certificate> {
    let tls = app.app.tls.as_ref()?;
    let issuer = tls.issuer.clone()?;
    let hostname = app.app.dns.hostname.as_ref()?;
    let owner = app.owner();
    let mut certificate = Certificate {
        api_version: CERTIFICATE_VERSION,
        kind: CERTIFICATE_KIND,
        metadata: owner.meta(owner.name.to_owned(), component::BALANCER),
        spec: CertificateSpec {
            secret_name: tls.secrets.first()?.clone(),
            dns_names: vec![hostname.to_string()],
            issuer_ref: issuer,
        },
    };
    annotate(&mut certificate.metadata, TEMPORARY, "true".to_owned());
    let hash = hash(json(&certificate).as_bytes());
    annotate(&mut certificate.metadata, annotation::APPLIED, hash);
    Some(certificate)
}

/// The Certificate, if it has to be written: it is missing or not as planned. One that belongs to
/// another owner is never written.
pub(super) fn to_write(app: &App, observed: &Observed) -> Option<Certificate> {
    let planned = certificate(app)?;
    let applied = |meta| annotated(meta, annotation::APPLIED).map(ToOwned::to_owned);
    match &observed.certificate {
        LiveCertificate::Missing => Some(planned),
        LiveCertificate::There(live) => {
            let is_same = applied(&live.metadata) == applied(&planned.metadata);
            (app.owner().owns(&live.metadata) && !is_same).then_some(planned)
        }
        LiveCertificate::Unknown | LiveCertificate::Failed(_) => None,
    }
}

/// When the Certificate is read again; `None` if the regular passes suffice.
pub(super) fn wake(app: &App, observed: &Observed) -> Option<Duration> {
    trouble(app, observed).map(|_| UNFINISHED)
}

/// Why the balancers do not have the issuer's certificate, and the cure.
pub(super) fn trouble(app: &App, observed: &Observed) -> Option<String> {
    let planned = certificate(app)?;
    let name = app.owner().name;
    let namespace = app.owner().namespace;
    let secret = &planned.spec.secret_name;
    Some(match &observed.certificate {
        LiveCertificate::Unknown => return None,
        LiveCertificate::Missing => format!("the Certificate {name} is being created"),
        LiveCertificate::Failed(CertificateFailure::NoKind) => format!(
            "spec.balancers.tls.issuerRef needs cert-manager, and this cluster has no kind Certificate of cert-manager.io: install cert-manager, or remove issuerRef and create the Secret {secret} yourself"
        ),
        LiveCertificate::Failed(CertificateFailure::Refused(why)) => format!(
            "the Certificate {name} cannot be read or written: {}",
            cut(why, MAX_QUOTED_BYTES)
        ),
        LiveCertificate::There(live) if !app.owner().owns(&live.metadata) => format!(
            "a Certificate named {name} exists already and does not belong to this app: remove spec.balancers.tls.issuerRef to use its Secret, or delete the Certificate (kubectl -n {namespace} delete certificate {name})"
        ),
        LiveCertificate::There(live) if live.is_issued() => return None,
        LiveCertificate::There(live) => {
            let issuer = &planned.spec.issuer_ref;
            let why = live.why_not().map_or_else(
                || {
                    format!(
                        "the {} {} has not answered: check that cert-manager runs and that this issuer exists",
                        issuer.kind, issuer.name
                    )
                },
                |why| cut(why, MAX_QUOTED_BYTES).to_owned(),
            );
            format!(
                "cert-manager has not issued the certificate for {}: {why} (kubectl -n {namespace} describe certificate {name})",
                planned.spec.dns_names.join(", ")
            )
        }
    })
}
