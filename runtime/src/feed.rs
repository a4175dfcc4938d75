//! The streams of an admin port: `/watch` and `/load`.
//!
//! This file decides when a line is sent. What a line says comes from
//! [`Routes`](crate::Routes); how many streams there may be is decided in `places`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

/// A peer that accepts no bytes for this long counts as disconnected (`TCP_USER_TIMEOUT`, tcp(7)).
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval of heartbeats on `/watch`; subscribers give up a producer after a few missing
/// heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(250);
/// The interval of lines on `/load`.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest interval of lines on `/load`, however often there is news.
const NEWS_INTERVAL: Duration = Duration::from_millis(100);

/// What `/load` sends. Nothing is measured while nobody reads it.
#[derive(Clone)]
pub struct Load {
    /// Makes the line of this moment, a single JSON object without a newline. It is called on the
    /// admin port's thread and must not block.
    pub line: Arc<dyn Fn() -> Bytes + Send + Sync>,
    /// Changes when a line is due at once; `None` if each second is enough.
    pub news: Option<watch::Receiver<()>>,
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").finish_non_exhaustive()
    }
}

/// The source of a stream's lines.
pub(crate) enum Feed {
    Watch(watch::Receiver<Bytes>),
    Load(Load),
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The reader or the producer has ended the stream.
    Gone,
    /// The reader accepts nothing.
    Stalled,
}

impl Feed {
    /// Sends lines until the reader or the producer ends the stream, or the reader accepts nothing
    /// any more.
    pub(crate) async fn send(self, lines: mpsc::Sender<Bytes>) -> Ended {
        let ended = match self {
            Self::Watch(values) => watched(values, &lines).await,
            Self::Load(load) => loaded(load, &lines).await,
        };
        ended.err().unwrap_or(Ended::Gone)
    }
}

/// Sends the current value, each change and the heartbeats.
async fn watched(
    mut values: watch::Receiver<Bytes>,
    lines: &mpsc::Sender<Bytes>,
) -> Result<(), Ended> {
    loop {
        let value = values.borrow_and_update().clone();
        put(lines, &value).await?;
        if let Ok(Err(_producer_gone)) = timeout(HEARTBEAT_INTERVAL, values.changed()).await {
            return Ok(());
        }
    }
}

/// Sends a line at once, one each second, and one when there is news.
async fn loaded(Load { line, mut news }: Load, lines: &mpsc::Sender<Bytes>) -> Result<(), Ended> {
    loop {
        if let Some(news) = &mut news {
            news.mark_unchanged();
        }
        put(lines, &line()).await?;
        let sent = Instant::now();
        let changed = async {
            match &mut news {
                Some(news) => news.changed().await,
                None => std::future::pending().await,
            }
        };
        // A reader that closes its connection is noticed at once, although nothing is sent.
        let changed = tokio::select! {
            changed = timeout(LOAD_INTERVAL, changed) => changed,
            () = lines.closed() => return Ok(()),
        };
        match changed {
            Err(_nothing_new) => {}
            Ok(Ok(())) => sleep((sent + NEWS_INTERVAL).duration_since(Instant::now())).await,
            Ok(Err(_producer_gone)) => return Ok(()),
        }
    }
}

async fn put(lines: &mpsc::Sender<Bytes>, value: &[u8]) -> Result<(), Ended> {
    let mut line = Vec::with_capacity(value.len() + 1);
    line.extend_from_slice(value);
    line.push(b'\n');
    match lines.send_timeout(line.into(), STALL_TIMEOUT).await {
        Ok(()) => Ok(()),
        Err(SendTimeoutError::Timeout(_)) => Err(Ended::Stalled),
        Err(SendTimeoutError::Closed(_)) => Err(Ended::Gone),
    }
}
