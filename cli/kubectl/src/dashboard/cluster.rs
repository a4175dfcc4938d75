//! How the dashboard reaches pods of a cluster: through the API server's proxy (`pods/proxy`), never by
//! running anything in a pod.
//!
//! The API server carries each answer, so at most a few are asked for at the same time, pods of apps that
//! nobody looks at are asked seldom, and only the open app's pods are followed.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use scaledapp_dashboard::{AdminPlaces, Crowd, Lines, Reach};
use scaledapp_wire::Snapshot;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::api::{Api, Why};
use crate::cli::Which;
use crate::read;

use super::found::{self, PodAt};

/// How many answers are waited for at the same time.
const MAX_ASKED: usize = 8;
/// How many pods are followed at the same time.
const MAX_FOLLOWED: usize = 48;
/// How long an answer of a pod may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// A stream without a line for this long has ended: its heartbeat is 250 ms.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest line of `/watch`.
const MAX_LINE_BYTES: u64 = 4 << 10;

/// The pods of a cluster.
pub(crate) struct Cluster {
    api: Api,
    which: Which,
    asked: Semaphore,
    followed: Arc<Semaphore>,
}

impl Cluster {
    pub(crate) fn new(api: Api, which: Which) -> Self {
        Self {
            api,
            which,
            asked: Semaphore::new(MAX_ASKED),
            followed: Arc::new(Semaphore::new(MAX_FOLLOWED)),
        }
    }
}

impl Reach for Cluster {
    type At = PodAt;
    type Lines = Followed;

    async fn places(&self) -> Result<Vec<AdminPlaces<PodAt>>, String> {
        let seen = read::objects(&self.api, &self.which).await;
        let seen = seen.map_err(|failure| failure.text)?;
        if let Err(why) = &seen.pods {
            return Err(format!("the pods of the apps are not known: {why}"));
        }
        Ok(found::places(&seen, self.which.all_namespaces))
    }

    async fn get(&self, at: &PodAt, page: &'static str) -> Result<Vec<u8>, String> {
        let Ok(_permit) = self.asked.acquire().await else {
            return Err("the dashboard ends".to_owned());
        };
        let answer = self.api.of_pod(&at.namespace, &at.pod, at.port, page);
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(text)) => Ok(text.into_bytes()),
            Ok(Err(trouble)) => Err(match trouble.why {
                // The API server answers 503 for a pod that it cannot reach.
                Why::Refused(_) => "the pod does not answer the API server".to_owned(),
                _ => trouble.short("get", "pods/proxy"),
            }),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    async fn watch(&self, at: &PodAt) -> Option<Followed> {
        let permit = Arc::clone(&self.followed).try_acquire_owned().ok()?;
        let stream = self
            .api
            .stream_of_pod(&at.namespace, &at.pod, at.port, "watch");
        let stream = timeout(ANSWER_TIMEOUT, stream).await.ok()?.ok()?;
        Some(Followed {
            stream: Box::pin(stream),
            _permit: permit,
        })
    }

    fn follows_all(&self) -> bool {
        false
    }

    fn pause(&self, crowd: Crowd) -> Duration {
        let second = Duration::from_secs(1);
        if crowd.is_open {
            second * crowd.of_app.div_ceil(16).clamp(1, 5)
        } else {
            second * crowd.all.div_ceil(8).clamp(2, 10)
        }
    }
}

/// An open `/watch` stream.
pub(crate) struct Followed {
    stream: Pin<Box<dyn AsyncBufRead + Send>>,
    _permit: OwnedSemaphorePermit,
}

impl Lines for Followed {
    async fn next(&mut self) -> Option<Snapshot> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.stream).take(MAX_LINE_BYTES);
        let read = bounded.read_until(b'\n', &mut line);
        timeout(SILENCE_TIMEOUT, read).await.ok()?.ok()?;
        serde_json::from_slice(&line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_is_read_line_by_line_and_a_line_without_end_ends_it() {
        let followed = |text: String| Followed {
            stream: Box::pin(futures_util::io::Cursor::new(text.into_bytes())),
            _permit: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
        };
        let mut two = followed("{\"ready\":true}\n{\"ready\":false}\n".to_owned());
        assert!(two.next().await.unwrap().ready);
        assert!(!two.next().await.unwrap().ready);
        assert!(two.next().await.is_none());
        assert!(followed("x".repeat(1 << 20)).next().await.is_none());
    }
}
