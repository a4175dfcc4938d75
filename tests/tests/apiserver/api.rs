//! Requests to the API server, as plain JSON.

use std::time::Duration;

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::runtime::Handle;

/// Timeout of one request.
const CALL: Duration = Duration::from_secs(30);

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The HTTP status; 0 without an answer.
    pub(crate) code: u16,
    pub(crate) message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.message)
    }
}

impl std::error::Error for Refused {}

type Answer = Result<Value, Refused>;

/// A client with one user's token.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
    pub(crate) runtime: Handle,
}

impl Api {
    /// Makes a client whose connections use the network namespace of the calling thread.
    pub(crate) fn new(server: &str, token: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        let config: Kubeconfig = serde_json::from_value(json!({
            "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }))?;
        let client = handle.block_on(async {
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(config, &options).await?;
            anyhow::Ok(kube::Client::try_from(config)?)
        })?;
        Ok(Self {
            client,
            runtime: handle,
        })
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        content: &str,
        body: Option<&Value>,
    ) -> Result<String, Refused> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", content)
            .header("Accept", "application/json")
            .body(body.into_bytes());
        let lost = |message: String| Refused { code: 0, message };
        let request = request.map_err(|error| lost(error.to_string()))?;
        // The runtime's own thread makes the connections, in its network namespace.
        let client = self.client.clone();
        let (send, answer) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            drop(send.send(client.request_text(request).await));
        });
        let answer = answer
            .recv_timeout(CALL)
            .map_err(|error| lost(error.to_string()))?;
        answer.map_err(|error| match error {
            kube::Error::Api(status) => Refused {
                code: status.code,
                message: status.message,
            },
            error => lost(format!("{error:?}")),
        })
    }

    fn json(&self, method: &str, path: &str, content: &str, body: Option<&Value>) -> Answer {
        let text = self.call(method, path, content, body)?;
        serde_json::from_str(&text).map_err(|error| Refused {
            code: 0,
            message: error.to_string(),
        })
    }

    /// The body of the answer to a GET, as text.
    pub(crate) fn text(&self, path: &str) -> Result<String, Refused> {
        self.call("GET", path, "application/json", None)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.json("GET", path, "application/json", None)
    }

    /// The items of a list.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Value>, Refused> {
        let mut list = self.get(path)?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.json("POST", path, "application/json", Some(body))
    }

    pub(crate) fn merge(&self, path: &str, body: &Value) -> Answer {
        self.json("PATCH", path, "application/merge-patch+json", Some(body))
    }

    pub(crate) fn delete(&self, path: &str, options: &Value) -> Answer {
        self.json("DELETE", path, "application/json", Some(options))
    }

    /// Applies an object as `kubectl apply --server-side` does.
    pub(crate) fn apply(&self, object: &Value) -> Answer {
        self.apply_with(object, "")
    }

    /// Checks an object as `kubectl apply --server-side --dry-run=server --validate=strict` does.
    pub(crate) fn check(&self, object: &Value) -> Answer {
        self.apply_with(object, "&dryRun=All&fieldValidation=Strict")
    }

    fn apply_with(&self, object: &Value, parameters: &str) -> Answer {
        let path = path(object);
        let path = format!("{path}?fieldManager=kubectl&force=true{parameters}");
        self.json("PATCH", &path, "application/apply-patch+yaml", Some(object))
    }

    /// The result that [`Api::apply`] would have.
    pub(crate) fn try_apply(&self, object: &Value) -> Answer {
        let path = path(object);
        let path = format!("{path}?fieldManager=kubectl&force=true&dryRun=All");
        self.json("PATCH", &path, "application/apply-patch+yaml", Some(object))
    }

    pub(crate) fn put(&self, path: &str, body: &Value) -> Answer {
        self.json("PUT", path, "application/json", Some(body))
    }
}

/// The path of an object.
pub(crate) fn path(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let root = if version.contains('/') { "apis" } else { "api" };
    let mut kind = text(&object["kind"]).to_lowercase();
    if kind.ends_with('y') {
        kind.pop();
        kind += "ies";
    } else {
        kind += if kind.ends_with('s') { "es" } else { "s" };
    }
    let (name, namespace) = (
        &object["metadata"]["name"],
        &object["metadata"]["namespace"],
    );
    let within = match namespace.as_str() {
        Some(namespace) => format!("namespaces/{namespace}/"),
        None => String::new(),
    };
    format!("/{root}/{version}/{within}{kind}/{}", text(name))
}
