//! How an API server is reached: as `kubectl` does where there is a kubeconfig,
//! else with the pod's service account.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use crate::follow::WATCH_SECONDS;

/// In a cluster it takes milliseconds, and another attempt follows.
const CONNECT: Duration = Duration::from_secs(5);
/// Without a byte for longer than a watch lasts, nobody is there any more.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);

/// Why there is nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither a kubeconfig nor a service account.
    #[error(
        "no way to the Kubernetes API: give KUBECONFIG, or run in a pod with a service account ({0})"
    )]
    NoConfig(String),
    /// Certificates or credentials that cannot be used.
    #[error("the credentials for the Kubernetes API cannot be used: {0}")]
    Credentials(String),
}

/// A client for the cluster of `KUBECONFIG` or `~/.kube/config`, else for the
/// cluster that this process is a pod of. Nothing is sent yet.
///
/// # Errors
/// There is no such configuration, or it is broken. Waiting does not cure it.
pub async fn client() -> Result<Client, ClientError> {
    // Who chose before us chose for the process.
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = Config::infer()
        .await
        .map_err(|error| ClientError::NoConfig(chain(&error)))?;
    connect(config).map_err(|error| ClientError::Credentials(chain(&error)))
}

pub(crate) fn connect(config: Config) -> kube::Result<Client> {
    let mut connector = TimeoutConnector::new(config.rustls_https_connector()?);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_write_timeout(Some(SILENCE));
    connector.set_read_timeout(Some(SILENCE));
    // Counted from the request, not from when the connection was used before.
    connector.set_reset_reader_on_write(true);
    let http: Http<_, Body> = Http::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

/// An error with its causes, without those that it quotes already.
/// Why a request failed, in one line: the API server's own words where it gave some.
pub fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        error => chain(error),
    }
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
