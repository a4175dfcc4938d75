//! The UDP loop: datagrams in batches, each answered from the address that it
//! was sent to.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::time::Duration;

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use scaledapp_answers::Transport;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::responder::Responder;

/// Datagrams received by one system call.
const BATCH: usize = 16;
/// The largest thing that one receive buffer can get (a datagram, or several
/// that the kernel joined: `UDP_GRO`, udp(7)). Touched only as far as used.
const BUFFER: usize = 65_535;
/// Room for the queries of a burst; the kernel cuts it to `net.core.rmem_max`.
const RECEIVE_QUEUE: usize = 1 << 20;
/// After an error that is none of a single datagram, so as not to spin.
const PAUSE: Duration = Duration::from_millis(10);

/// The bound UDP side.
#[derive(Debug)]
pub(crate) struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    wildcard: bool,
}

impl Udp {
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        // Best effort: a smaller queue only drops earlier.
        drop(SockRef::from(&socket).set_recv_buffer_size(RECEIVE_QUEUE));
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self {
            socket,
            state,
            wildcard: address.ip().is_unspecified(),
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until the future is dropped.
    pub(crate) async fn serve(self, mut responder: Responder) {
        let mut memory = vec![0; BATCH * BUFFER];
        let mut metas = [RecvMeta::default(); BATCH];
        loop {
            match self.receive(&mut memory, &mut metas).await {
                Ok(received) => {
                    for (buffer, meta) in memory.chunks(BUFFER).zip(&metas[..received]) {
                        let bytes = &buffer[..meta.len];
                        for datagram in bytes.chunks(meta.stride.max(1)) {
                            self.answer(datagram, meta, &mut responder);
                        }
                    }
                    // Others on this thread wait as well: probes, TCP, the admin port.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot receive a datagram");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn receive(&self, memory: &mut [u8], metas: &mut [RecvMeta; BATCH]) -> io::Result<usize> {
        let mut chunks = memory.chunks_mut(BUFFER);
        let mut buffers: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        self.socket
            .async_io(Interest::READABLE, || {
                self.state
                    .recv(UdpSockRef::from(&self.socket), &mut buffers, metas)
            })
            .await
    }

    fn answer(&self, query: &[u8], meta: &RecvMeta, responder: &mut Responder) {
        if meta.addr.port() == 0 {
            // Nothing can be sent to port 0 (RFC 768: "no port").
            responder.metrics().dropped("source_port");
            return;
        }
        let Some(answer) = responder.respond(query, Transport::Udp) else {
            return;
        };
        let sent = self.state.try_send(
            UdpSockRef::from(&self.socket),
            &Transmit {
                destination: meta.addr,
                ecn: None,
                contents: answer,
                segment_size: None,
                // A client takes the answer only from where it asked.
                src_ip: meta.dst_ip.filter(|_| self.wildcard),
            },
        );
        if let Err(error) = sent {
            // A full queue, an unreachable client: it will ask again.
            tracing::debug!(%error, peer = %meta.addr, "cannot send an answer");
            responder.metrics().dropped("send");
        }
    }
}
