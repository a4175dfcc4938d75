//! The UDP loop: receives datagrams in batches and answers each from the address that it was sent
//! to.

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
/// Size of one receive buffer, in bytes: the largest datagram, or several that the kernel joined
/// (`UDP_GRO`, udp(7)). Unused pages of it take no memory.
const BUFFER: usize = 65_535;
/// Receive buffer of the socket, in bytes, for bursts. The kernel caps it at `net.core.rmem_max`.
const RECEIVE_QUEUE: usize = 1 << 20;
/// Pause after an error of the socket itself, so that the loop does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// The bound UDP socket.
#[derive(Debug)]
pub(crate) struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    wildcard: bool,
}

impl Udp {
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        // Best effort: a smaller buffer only drops datagrams earlier.
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
                    // Lets the other tasks of this thread run: probes, TCP, the admin port.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot receive a datagram");
                    tokio::time::sleep(ERROR_PAUSE).await;
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
            // No answer can be sent to port 0 (RFC 768: "no port").
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
                // Clients accept an answer only from the address that they sent the query to.
                src_ip: meta.dst_ip.filter(|_| self.wildcard),
            },
        );
        if let Err(error) = sent {
            // The queue is full, or the client is unreachable. The client will send its query
            // again.
            tracing::debug!(%error, peer = %meta.addr, "cannot send an answer");
            responder.metrics().dropped("send");
        }
    }
}
