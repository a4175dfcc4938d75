//! Tests of passes over an app whose certificate cert-manager issues.

use serde_json::{Value, json};

use crate::operator::{Operator, good};
use crate::server::Failure;

const PATH: &str = "/apis/cert-manager.io/v1/namespaces/default/certificates/hello";

fn with_issuer() -> Value {
    let mut object = good();
    object["spec"]["balancers"] =
        json!({"tls": {"secretName": "hello-tls", "issuerRef": {"name": "letsencrypt"}}});
    object["spec"]["dns"] = json!({"hostname": "hello.example.com"});
    object
}

fn degraded(operator: &Operator) -> Value {
    let state = operator.server.lock().unwrap();
    let app = &state.objects["/apis/scaledapp.io/v1alpha1/namespaces/default/scaledapps/hello"];
    let conditions = app["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|it| it["type"] == "Degraded");
    found.unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_applied_once_and_read_again_while_it_is_unfinished() {
    let mut operator = Operator::new(with_issuer());
    operator.pass().await.unwrap();
    let is_about = |write: &String| write.contains("certificates/hello");
    assert_eq!(
        operator.writes().iter().filter(|it| is_about(it)).count(),
        1
    );
    operator.sync();
    operator.pass().await.unwrap();
    let message = degraded(&operator)["message"].clone();
    assert!(
        message
            .as_str()
            .unwrap()
            .contains("has not issued the certificate"),
        "{message}"
    );
    let ready = json!({"conditions": [{"type": "Ready", "status": "True", "message": "issued"}]});
    operator
        .server
        .lock()
        .unwrap()
        .objects
        .get_mut(PATH)
        .unwrap()["status"] = ready;
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    operator.sync();
    operator.pass().await.unwrap();
    assert_ne!(degraded(&operator)["reason"], "CertificateNotIssued");
    assert_eq!(
        operator.writes().iter().filter(|it| is_about(it)).count(),
        1
    );
}

/// The API server answers 404 to a request for a kind that it does not know.
#[tokio::test]
async fn without_cert_manager_the_rest_is_applied_and_the_status_says_what_is_missing() {
    let mut operator = Operator::new(with_issuer());
    operator.fail(None, "/certificates/hello", Failure::Code(404));
    operator.pass().await.unwrap();
    let writes = operator.writes();
    assert!(
        writes.contains(&"PATCH deployments/hello".to_owned()),
        "{writes:?}"
    );
    operator.sync();
    operator.pass().await.unwrap();
    let message = degraded(&operator)["message"].clone();
    assert!(
        message.as_str().unwrap().contains("install cert-manager"),
        "{message}"
    );
}
