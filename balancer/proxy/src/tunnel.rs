//! An upgraded connection: bytes both ways until both sides have finished.
//!
//! What they mean is not our business any more.

use std::time::Duration;

use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

use crate::endpoint::Endpoint;

/// Of each direction.
const BUFFER: usize = 8 << 10;
/// A peer that vanished without a word is found out after this.
const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// Passes bytes on until both sides have finished, one breaks, or the endpoint
/// is given up. `early` is what either side has sent already.
pub(crate) async fn run(
    client: &mut TcpStream,
    early_of_client: &[u8],
    upstream: &mut TcpStream,
    early_of_upstream: &[u8],
    endpoint: &Endpoint,
) {
    let keep_alive = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE);
    for stream in [&*client, &*upstream] {
        // Without it, a vanished peer is noticed at the next write only.
        drop(socket2::SockRef::from(stream).set_tcp_keepalive(&keep_alive));
    }
    let copy = async {
        upstream.write_all(early_of_client).await?;
        client.write_all(early_of_upstream).await?;
        copy_bidirectional_with_sizes(client, upstream, BUFFER, BUFFER).await
    };
    tokio::select! {
        ended = copy => if let Err(error) = ended {
            tracing::debug!(%error, "an upgraded connection broke");
        },
        () = endpoint.retired() => {}
    }
}
