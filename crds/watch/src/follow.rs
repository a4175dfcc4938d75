//! The loop that keeps a list up to date: list, watch, and list again after any error, without end.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Api, Resource};
use scaledapp_units::Backoff;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use crate::client::chain;
use crate::objects::Objects;

/// How long one watch lasts, in seconds. A server that vanished silently is noticed shortly after
/// the watch should have ended. One request a minute is no load for the API server.
pub(crate) const WATCH_SECONDS: u32 = 60;

/// Pauses between attempts after a request to the API server has failed.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// One report of [`follow`].
#[derive(Debug)]
pub enum News<'a, K> {
    /// All objects, as they are now.
    List(&'a Objects<K>),
    /// Why the list cannot be updated. The last reported list is still the best known.
    Problem(String),
}

/// Calls `report` with all objects of `api` that match the label selector `labels` (all if it is
/// empty), and again after each change. Never returns.
pub async fn follow<K>(api: Api<K>, labels: &str, mut report: impl FnMut(News<'_, K>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut config = Config::default().timeout(WATCH_SECONDS);
    if !labels.is_empty() {
        config = config.labels(labels);
    }
    let mut objects = Objects::default();
    let mut backoff = BACKOFF;
    let mut is_lost = false;
    loop {
        // The watcher would resume a broken watch, and no event would show that the problem is
        // over. A new watcher lists first, and that list shows it.
        let mut events = pin!(watcher(api.clone(), config.clone()));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if objects.take(event) {
                        backoff.reset();
                        if std::mem::take(&mut is_lost) {
                            tracing::info!("the API server answers again");
                        }
                        report(News::List(&objects));
                    }
                }
                Err(error) => {
                    if is_outdated(&error) {
                        tracing::debug!("the API server wants another list");
                    } else {
                        is_lost = true;
                        report(News::Problem(problem(&error)));
                    }
                    break;
                }
            }
        }
        sleep(backoff.next(fastrand::f64())).await;
    }
}

/// The API server's message if it sent one, otherwise the error with its causes.
fn problem(error: &watcher::Error) -> String {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return chain(error);
    };
    if status.message.is_empty() {
        chain(error)
    } else {
        status.message.clone()
    }
}

/// Whether the server no longer has the history since the version that this watch asked for. This
/// is not a failure.
fn is_outdated(error: &watcher::Error) -> bool {
    const GONE: u16 = 410;
    let (watcher::Error::WatchError(status)
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return false;
    };
    status.code == GONE
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use tokio::time::timeout;

    use super::*;
    use crate::client::connect;
    use crate::testing::ApiServer;

    fn object(name: &str) -> serde_json::Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": "default", "name": name, "managedFields": [{}]}})
    }

    /// Receives the names of each list, or `!` for a problem.
    fn start(server: &ApiServer) -> UnboundedReceiver<String> {
        let url = format!("http://{}", server.address());
        let client = connect(kube::Config::new(url.parse().unwrap())).unwrap();
        let (sender, receiver) = unbounded_channel();
        tokio::spawn(async move {
            let api: Api<ConfigMap> = Api::namespaced(client, "default");
            follow(api, "a=b", |news| {
                let text = match news {
                    News::Problem(_) => "!".to_owned(),
                    News::List(objects) => {
                        let names = objects.iter().map(|((_, name), object)| {
                            assert_eq!(object.metadata.managed_fields, None);
                            name.as_str()
                        });
                        names.collect::<Vec<_>>().join(" ")
                    }
                };
                drop(sender.send(text));
            })
            .await;
        });
        receiver
    }

    async fn next(news: &mut UnboundedReceiver<String>) -> String {
        let next = timeout(Duration::from_secs(20), news.recv()).await;
        next.unwrap().unwrap()
    }

    #[tokio::test]
    async fn lists_and_changes_are_reported_including_missed_ones() {
        let server = ApiServer::start();
        server.put(object("a"));
        let mut news = start(&server);
        assert_eq!(next(&mut news).await, "a");
        server.put(object("b"));
        assert_eq!(next(&mut news).await, "a b");
        server.delete("default", "a");
        assert_eq!(next(&mut news).await, "b");
        // Expired history is not a problem, but needs a new list.
        server.delete_unseen("default", "b");
        server.expire();
        assert_eq!(next(&mut news).await, "");
        // The end of a connection may be reported as a problem, but no change is lost by it.
        server.cut();
        server.put(object("c"));
        loop {
            match next(&mut news).await.as_str() {
                "c" => break,
                other => assert_eq!(other, "!"),
            }
        }
        let list = "/api/v1/namespaces/default/configmaps?&labelSelector=a%3Db";
        let requests = server.requests();
        assert!(
            requests
                .iter()
                .all(|request| request.contains("labelSelector=a%3Db"))
        );
        assert!(requests[0].starts_with(list), "{requests:?}");
    }

    #[tokio::test]
    async fn an_outage_is_reported_and_so_is_its_end_even_if_nothing_changed() {
        let server = ApiServer::start();
        server.put(object("a"));
        let mut news = start(&server);
        assert_eq!(next(&mut news).await, "a");
        server.set_away(true);
        assert_eq!(next(&mut news).await, "!");
        assert_eq!(next(&mut news).await, "!");
        server.set_away(false);
        while next(&mut news).await == "!" {}
        server.put(object("b"));
        assert_eq!(next(&mut news).await, "a b");
    }
}
