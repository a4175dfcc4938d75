//! The server side of `ctl`: accepts, checks the peer, passes requests on.
//!
//! What a request does is the supervisor loop's matter.

use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::ctl::{Reply, Request, socket_address};

/// A request and where its answer goes.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// Longest request line; the longest that makes sense has some 60 bytes.
const LINE_BYTES: u64 = 4096;
/// Within this the request must be there.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes the socket's name.
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

/// Serves until the process ends.
pub(crate) async fn serve(listener: UnixListener, asked: mpsc::UnboundedSender<Asked>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let asked = asked.clone();
                tokio::task::spawn_local(async move {
                    if let Err(error) = converse(stream, asked).await {
                        tracing::debug!(%error, "control connection ended");
                    }
                });
            }
            // Out of descriptors: what is running must go on, so wait for some.
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(
    mut stream: UnixStream,
    asked: mpsc::UnboundedSender<Asked>,
) -> std::io::Result<()> {
    let ours = rustix::process::geteuid().as_raw();
    let peer = stream.peer_cred()?.uid();
    if peer != ours && peer != 0 {
        tracing::warn!(peer, "refused a control connection of another user");
        return Ok(());
    }
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut limited = BufReader::new(tokio::io::AsyncReadExt::take(read, LINE_BYTES));
    tokio::time::timeout(PATIENCE, limited.read_line(&mut line)).await??;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => {
            let (reply, answered) = oneshot::channel();
            match asked.send(Asked { request, reply }) {
                Ok(()) => answered.await.unwrap_or_else(|_| gone()),
                Err(_) => gone(),
            }
        }
        Err(error) => Reply::Error(format!("not understood: {error}")),
    };
    let mut answer = serde_json::to_vec(&reply)?;
    answer.push(b'\n');
    write.write_all(&answer).await
}

fn gone() -> Reply {
    Reply::Error("the supervisor is stopping".to_owned())
}
