//! The client for the API server: configured by a kubeconfig as `kubectl` is, otherwise by the
//! pod's service account.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use crate::follow::WATCH_SECONDS;

/// How long one attempt to connect may take. In a cluster, connecting takes milliseconds, and
/// another attempt follows a failed one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which no byte moves for this long counts as dead. The time is longer than a
/// watch lasts.
const READ_TIMEOUT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither a kubeconfig nor a service account.
    #[error(
        "no Kubernetes API is configured: set KUBECONFIG, or run in a pod with a service account ({0})"
    )]
    NoConfig(String),
    /// Certificates or credentials that cannot be used.
    #[error("the credentials for the Kubernetes API cannot be used: {0}")]
    Credentials(String),
}

/// Makes a client for the cluster of `KUBECONFIG` or `~/.kube/config`, otherwise for the cluster
/// in which this process is a pod. Sends nothing yet.
///
/// # Errors
/// There is neither a kubeconfig nor a service account, or the one that was found is invalid. A
/// retry does not help.
pub async fn client() -> Result<Client, ClientError> {
    // Fails if the process has already installed a provider. That provider is then used.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let config = Config::infer()
        .await
        .map_err(|error| ClientError::NoConfig(chain(&error)))?;
    connect(config).map_err(|error| ClientError::Credentials(chain(&error)))
}

pub(crate) fn connect(config: Config) -> kube::Result<Client> {
    let mut connector = TimeoutConnector::new(config.rustls_https_connector()?);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_write_timeout(Some(READ_TIMEOUT));
    connector.set_read_timeout(Some(READ_TIMEOUT));
    // The read timeout counts from the request, not from the previous use of the connection.
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

/// Why a request failed, in one line: the API server's message if it sent one.
pub fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        error => chain(error),
    }
}

/// An error with its causes. A cause that the text contains already is left out.
pub fn chain(error: &dyn std::error::Error) -> String {
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
