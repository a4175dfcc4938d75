//! The server side of `ctl`: accepts connections, checks the peers and passes requests on.
//!
//! The supervisor's loop decides what a request does. Any process in the network namespace
//! can connect, so a silent connection is closed in favour of a new one, and refused peers
//! are logged at a limited rate.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use scaledapp_wire::{Description, Events, Reply, Request, Status, Tails};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::WriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::name::socket_address;

/// The answer to a request that was carried out.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    /// The request is done, and there is nothing else to report.
    Done,
    Status(Status),
    Tails(Tails),
    Description(Description),
    Events(Events),
}

/// Where an answer goes.
pub(crate) type Answering = oneshot::Sender<Reply<Answer>>;

/// A request and where its answer goes.
#[derive(Debug)]
pub(crate) struct ControlRequest {
    pub(crate) request: Request,
    pub(crate) reply: Answering,
}

/// The longest request line; real requests have about 60 bytes.
const LINE_BYTES: u64 = 4096;
/// How long a client may take to send its request, and to take its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of connections without a request; one more closes the oldest.
const MAX_SILENT: usize = 32;
/// Maximum number of requests that wait for their answers.
const MAX_WAITING: usize = 64;
/// The shortest time between two log lines about refused peers.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Binds the control socket.
///
/// # Errors
/// Another supervisor has the same admin address.
pub(crate) fn bind(admin: SocketAddr) -> anyhow::Result<UnixListener> {
    let listener = StdListener::bind_addr(&socket_address(admin)?).with_context(|| {
        format!("another supervisor runs with --admin {admin}; give this one another address")
    })?;
    listener.set_nonblocking(true)?;
    Ok(UnixListener::from_std(listener)?)
}

/// Connections whose request has not arrived yet, in order of arrival.
type Silent = Rc<RefCell<BTreeMap<u64, AbortHandle>>>;

/// Serves until the process ends.
pub(crate) async fn serve(listener: UnixListener, asked: mpsc::UnboundedSender<ControlRequest>) {
    let ours = rustix::process::geteuid().as_raw();
    let silent = Silent::default();
    let waiting = Rc::new(Semaphore::new(MAX_WAITING));
    let mut refused = Refused::default();
    for arrival in 0.. {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // There may be no free descriptor. The supervisor must continue, so this loop
            // waits and tries again.
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match stream.peer_cred().map(|peer| peer.uid()) {
            Ok(peer) if peer == ours || peer == 0 => {}
            Ok(peer) => {
                if let Some(more) = refused.once_more(Instant::now()) {
                    tracing::warn!(
                        peer,
                        more,
                        "refused a control connection of another user: only the supervisor's \
                         own user and root may control it"
                    );
                }
                continue;
            }
            // The peer has already closed the connection.
            Err(_) => continue,
        }
        if silent.borrow().len() >= MAX_SILENT
            && let Some((_, oldest)) = silent.borrow_mut().pop_first()
        {
            oldest.abort();
        }
        let asked = asked.clone();
        let quiet = Rc::clone(&silent);
        let waiting = Rc::clone(&waiting);
        let task = tokio::task::spawn_local(async move {
            let talk = converse(stream, &asked, &waiting, || {
                quiet.borrow_mut().remove(&arrival);
            });
            if let Err(error) = talk.await {
                tracing::debug!(%error, "control connection ended");
            }
            quiet.borrow_mut().remove(&arrival);
        });
        silent.borrow_mut().insert(arrival, task.abort_handle());
    }
}

/// Counts refused peers, which are logged at a limited rate.
#[derive(Debug, Default)]
struct Refused {
    told: Option<Instant>,
    /// How many were refused since the last log line.
    more: u64,
}

impl Refused {
    /// Counts one more refused peer at `now`. If it should be logged, returns how many were not
    /// logged since the last log line.
    fn once_more(&mut self, now: Instant) -> Option<u64> {
        let is_due = |told| now.saturating_duration_since(told) >= COMPLAINT_INTERVAL;
        if self.told.is_none_or(is_due) {
            self.told = Some(now);
            return Some(std::mem::take(&mut self.more));
        }
        self.more = self.more.saturating_add(1);
        None
    }
}

/// Answers one request; `has_spoken` is called once the request has arrived.
async fn converse(
    mut stream: UnixStream,
    asked: &mpsc::UnboundedSender<ControlRequest>,
    waiting: &Semaphore,
    has_spoken: impl FnOnce(),
) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut limited = BufReader::new(tokio::io::AsyncReadExt::take(read, LINE_BYTES));
    tokio::time::timeout(REQUEST_TIMEOUT, limited.read_line(&mut line)).await??;
    has_spoken();
    let reply = match serde_json::from_str(&line) {
        Ok(request) => {
            let Ok(_waiting) = waiting.try_acquire() else {
                return answer(&mut write, &too_many()).await;
            };
            let (reply, answered) = oneshot::channel();
            match asked.send(ControlRequest { request, reply }) {
                Ok(()) => answered.await.unwrap_or_else(|_| gone()),
                Err(_) => gone(),
            }
        }
        Err(error) => Reply::Error(format!(
            "the request cannot be understood: {error}; use a `ctl` of the supervisor's version"
        )),
    };
    answer(&mut write, &reply).await
}

async fn answer(write: &mut WriteHalf<'_>, reply: &Reply<Answer>) -> std::io::Result<()> {
    let mut answer = serde_json::to_vec(reply)?;
    answer.push(b'\n');
    tokio::time::timeout(REQUEST_TIMEOUT, write.write_all(&answer)).await?
}

fn too_many() -> Reply<Answer> {
    Reply::Error(format!(
        "{MAX_WAITING} commands already wait for their answers: end some of them"
    ))
}

fn gone() -> Reply<Answer> {
    Reply::Error("the supervisor is stopping".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_peers_are_logged_from_time_to_time_and_all_counted() {
        let mut refused = Refused::default();
        let begin = Instant::now();
        assert_eq!(refused.once_more(begin), Some(0));
        for _ in 0..1000 {
            assert_eq!(refused.once_more(begin + COMPLAINT_INTERVAL / 2), None);
        }
        assert_eq!(refused.once_more(begin + COMPLAINT_INTERVAL), Some(1000));
        assert_eq!(refused.once_more(begin + COMPLAINT_INTERVAL), None);
    }
}
