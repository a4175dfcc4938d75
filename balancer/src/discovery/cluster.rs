//! The pods behind a Service as a source of backends: watches the `EndpointSlice`s of the
//! Service and publishes the list that [`super::slices`] reads from them.
//!
//! The balancer needs only `list` and `watch` of `endpointslices` in the namespace. While
//! the API server is away, the last list stays in force, and [`crate::peers::watch`] still
//! receives reports from the pods themselves.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use scaledapp_crds::words::label;
use scaledapp_watch::News;

use super::listing::Sink;
use super::slices;
use crate::metrics::Metrics;

/// `--endpoints-service`: a Service by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceName {
    namespace: String,
    name: String,
}

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if is_label(namespace) && is_label(name) => Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(format!(
                "{text:?} is not NAMESPACE/NAME of a Service, such as default/hello-pods"
            )),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether Kubernetes allows this as the name of a namespace or a Service (RFC 1123).
fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The watch of one Service.
#[derive(Debug)]
pub(crate) struct Feed {
    service: ServiceName,
    sink: Sink,
    metrics: Arc<Metrics>,
    /// The problem that was logged last, so that each problem is logged once.
    told: Option<String>,
}

impl Feed {
    pub(crate) fn new(service: ServiceName, sink: Sink, metrics: Arc<Metrics>) -> Self {
        Self {
            service,
            sink,
            metrics,
            told: None,
        }
    }

    /// Starts to watch in a task that never ends.
    ///
    /// # Errors
    /// There is no configuration of an API server. An API server that does not answer is no
    /// error.
    pub(crate) async fn start(self) -> anyhow::Result<()> {
        let client = scaledapp_watch::client().await;
        let client = client.with_context(|| format!("--endpoints-service {}", self.service))?;
        tokio::spawn(self.run(client));
        Ok(())
    }

    async fn run(mut self, client: Client) {
        let api: Api<EndpointSlice> = Api::namespaced(client, &self.service.namespace);
        let labels = format!("{}={}", label::SERVICE_NAME, self.service.name);
        scaledapp_watch::follow(api, &labels, |news| match news {
            News::List(objects) => {
                let read = slices::read(objects.iter().map(|(_, slice)| slice));
                self.metrics.listed(true);
                self.sink.put(read.backends);
                match read.problem {
                    Some(problem) => self.refuse(problem),
                    None => self.told = None,
                }
            }
            News::Problem(problem) => {
                self.metrics.listed(false);
                self.refuse(problem);
            }
        })
        .await;
    }

    fn refuse(&mut self, problem: String) {
        if self.told.as_ref() != Some(&problem) {
            let kept = if self.sink.has_list() {
                "the last good list stays"
            } else {
                "not ready until there is a list"
            };
            tracing::warn!(service = %self.service, problem, "trouble with endpoints; {kept}");
            self.told = Some(problem.clone());
        }
        self.sink.fail(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_with_its_namespace() {
        let service: ServiceName = "default/hello-pods".parse().unwrap();
        assert_eq!(service.to_string(), "default/hello-pods");
        let long = format!("default/{}", "a".repeat(64));
        for text in [
            "hello",
            "/hello",
            "default/",
            "a/b/c",
            "Default/a",
            "a/-b",
            "a/b.c",
            &long,
        ] {
            let error = text.parse::<ServiceName>().unwrap_err();
            assert!(error.contains("such as default/hello-pods"), "{error}");
        }
    }
}
