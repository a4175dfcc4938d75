//! Tests of the Certificate of an app with an issuer.

use scaledapp_plan::cluster::{
    Certificate, CertificateFailure, LiveCertificate, Observed, Outcome, StoredCertificate, plan,
    status, validate,
};
use serde_json::{Value, json};

use super::given::{UID, app, cluster, object, settings};
use super::status::{reason, started};

const ISSUED: &str = "  balancers: {tls: {secretName: hello-tls, issuerRef: {name: letsencrypt, kind: ClusterIssuer}}}\n  dns: {hostname: hello.example.com}";

fn written(observed: &Observed) -> Option<Certificate> {
    plan(&app(ISSUED), observed, &settings()).certificate
}

fn live(certificate: &Certificate, status: &Value) -> LiveCertificate {
    let mut object = serde_json::to_value(certificate).unwrap();
    object["metadata"]["generation"] = json!(2);
    object["status"] = status.clone();
    let stored: StoredCertificate = serde_json::from_value(object).unwrap();
    LiveCertificate::There(Box::new(stored))
}

fn ready(status: &str, generation: i64, message: &str) -> Value {
    json!({"conditions": [{
        "type": "Ready", "status": status, "reason": "r", "message": message,
        "lastTransitionTime": "2026-11-30T00:00:00Z", "observedGeneration": generation,
    }]})
}

fn with(certificate: LiveCertificate) -> Observed {
    Observed {
        certificate,
        ..cluster(2)
    }
}

#[test]
fn a_certificate_for_the_hostname_is_written_once() {
    let made = written(&with(LiveCertificate::Missing)).unwrap();
    let object = serde_json::to_value(&made).unwrap();
    assert_eq!(
        object["spec"],
        json!({
            "secretName": "hello-tls",
            "dnsNames": ["hello.example.com"],
            "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer", "group": "cert-manager.io"},
        })
    );
    assert_eq!(object["metadata"]["name"], "hello");
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], UID);
    // The balancers need a certificate before the issuer can reach them.
    let annotations = &object["metadata"]["annotations"];
    assert_eq!(
        annotations["cert-manager.io/issue-temporary-certificate"],
        "true"
    );

    let issued = live(&made, &ready("True", 2, "up to date"));
    assert_eq!(written(&with(issued.clone())), None);
    let other = app(&ISSUED.replace("letsencrypt", "other"));
    let changed = plan(&other, &with(issued), &settings())
        .certificate
        .unwrap();
    assert_eq!(changed.spec.issuer_ref.name, "other");
}

#[test]
fn without_an_issuer_or_an_answer_nothing_is_written() {
    let plain = "  balancers: {tls: {secretName: hello-tls}}\n  dns: {hostname: a.example.com}";
    let missing = with(LiveCertificate::Missing);
    assert_eq!(plan(&app(plain), &missing, &settings()).certificate, None);
    assert_eq!(written(&with(LiveCertificate::Unknown)), None);
    let failed = LiveCertificate::Failed(CertificateFailure::NoKind);
    assert_eq!(written(&with(failed)), None);
}

#[test]
fn a_certificate_of_another_owner_stays_as_it_is() {
    let mut made = written(&with(LiveCertificate::Missing)).unwrap();
    made.metadata.owner_references = None;
    let foreign = with(live(&made, &json!({})));
    assert_eq!(written(&foreign), None);
}

#[test]
fn what_the_issuer_lacks_is_reported_with_its_cure() {
    let made = written(&with(LiveCertificate::Missing)).unwrap();
    let mut foreign = made.clone();
    foreign.metadata.owner_references = None;
    let failed = LiveCertificate::Failed;
    for (certificate, says) in [
        (failed(CertificateFailure::NoKind), "install cert-manager"),
        (
            failed(CertificateFailure::Refused("no right".to_owned())),
            "cannot be read or written: no right",
        ),
        (LiveCertificate::Missing, "is being created"),
        (
            live(&foreign, &json!({})),
            "kubectl -n shop delete certificate hello",
        ),
        (
            live(&made, &json!({})),
            "check that cert-manager runs and that this issuer exists",
        ),
        (
            live(&made, &ready("False", 2, "acme: rate limited")),
            "for hello.example.com: acme: rate limited (kubectl",
        ),
        // This is about an earlier generation.
        (
            live(&made, &ready("True", 1, "up to date")),
            "has not issued the certificate",
        ),
        (live(&made, &ready("True", 2, "up to date")), ""),
        (LiveCertificate::Unknown, ""),
    ] {
        let (mut object, mut observed) = started(ISSUED);
        observed.certificate = certificate;
        let app = validate(&object).unwrap();
        let planned = plan(&app, &observed, &settings());
        object.status = Some(status(&object, &observed, Outcome::Applied(&app, &planned)));
        let conditions = &object.status.as_ref().unwrap().conditions;
        let degraded = conditions.iter().find(|it| it.type_ == "Degraded").unwrap();
        let expected = if says.is_empty() {
            "AsWanted"
        } else {
            "CertificateNotIssued"
        };
        assert_eq!(degraded.reason, expected, "{degraded:?}");
        assert!(degraded.message.contains(says), "{}", degraded.message);
        // A certificate that is missing, or temporary, does not keep requests from being served.
        assert_eq!(reason(&object, "Ready"), "AsWanted");
        // An unfinished certificate is looked at again soon.
        assert_eq!(planned.wake.is_some(), !says.is_empty(), "{says}");
    }
}

#[test]
fn an_issuer_needs_a_hostname() {
    let lines = ISSUED.split('\n').next().unwrap();
    let violations = validate(&object(lines)).unwrap_err();
    let text = violations[0].to_string();
    assert!(text.contains("needs spec.dns.hostname"), "{text}");
}
