//! The `ScaledApp`s of a cluster as a source of records: watches them and keeps
//! what [`crate::apps`] reads from them.
//!
//! Needs `list` and `watch` of `scaledapps` in all namespaces, nothing
//! more. While the API server is away the last set stays.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::core::DeserializeGuard;
use kube::{Api, Client};
use scaledapp_watch::News;
use tokio::sync::watch;

use crate::apps::{App, Apps, Naming};
use crate::metrics::Metrics;
use crate::origins::Given;

/// What is known of the cluster.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The last good set.
    pub(crate) given: Option<Given>,
    /// Why there is no newer one.
    pub(crate) problem: Option<String>,
}

/// Watches on for ever in a task of its own.
///
/// # Errors
/// There is no API server to ask. One that does not answer is no error.
pub(crate) async fn start(
    naming: Naming,
    state: watch::Sender<State>,
    metrics: Arc<Metrics>,
) -> Result<(), scaledapp_watch::ClientError> {
    let client = scaledapp_watch::client().await?;
    tokio::spawn(run(client, naming, state, metrics));
    Ok(())
}

async fn run(client: Client, naming: Naming, state: watch::Sender<State>, metrics: Arc<Metrics>) {
    let mut apps = Apps::default();
    // Each is told when it is new.
    let mut told = BTreeSet::new();
    let api: Api<DeserializeGuard<App>> = Api::all(client);
    scaledapp_watch::follow(api, "", |news| match news {
        News::List(objects) => {
            let unreadable = apps.take(objects);
            let mut read = apps.read(&naming);
            read.ignored.extend(unreadable);
            for reason in read.ignored.difference(&told) {
                tracing::warn!(reason, "left out of DNS");
            }
            told = read.ignored;
            metrics.listed("ok");
            state.send_replace(State {
                given: Some(Given {
                    entries: read.entries,
                    // RFC 1982 copes with the wrap.
                    serial: objects.version() as u32,
                }),
                problem: None,
            });
        }
        News::Problem(problem) => {
            metrics.listed("error");
            state.send_if_modified(|state| {
                let is_news = state.problem.as_ref() != Some(&problem);
                state.problem = Some(problem);
                is_news
            });
        }
    })
    .await;
}
