//! The TLS handshake of a new connection, before its first request.
//!
//! Decides how long the handshake may take, and how a client that does not speak TLS is
//! answered. The session decides what is agreed on; `turns` decides when a step may be
//! done.

use std::future::poll_fn;
use std::task::Poll;

use scaledapp_http1 as http1;

use super::client::{Client, Gone};
use crate::config::UpstreamProtocol;
use crate::metrics::count;
use crate::security::{Handshake, SessionError, Settled};
use crate::thread::Thread;
use crate::transport::{Secured, Transport};

/// The answer to a client that does not speak TLS.
const CLEAR_TEXT: &str = "TLS is spoken here: ask for https://";

/// Carries out the handshake, if the connection needs one. An error means that the connection
/// is over.
pub(crate) async fn settle(thread: &Thread, client: &mut Client) -> Result<Option<Settled>, ()> {
    let is_new = match &client.transport {
        Transport::Secured(secured) => secured.settled().is_none(),
        Transport::Plain(_) | Transport::Stream(_) => false,
    };
    if !is_new {
        return Ok(None);
    }
    client.owes(thread, thread.config.limits.head_time);
    let newcomer = thread.occupancy.newcomer(&client.deadline, client.peer);
    let settled = loop {
        let taken = poll_fn(|context| {
            let Transport::Secured(secured) = &mut client.transport else {
                return Poll::Ready(Err(Gone::Closed));
            };
            if let Poll::Ready(Err(_)) = secured.poll_flush(context) {
                return Poll::Ready(Err(Gone::Closed));
            }
            match secured.poll_take(context) {
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(Gone::Closed)),
                Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
                Poll::Pending => client.deadline.poll(context).map(|()| Err(Gone::Late)),
            }
        });
        if let Err(gone) = taken.await {
            count(&thread.counts.handshakes_failed);
            let why = match (gone, client.deadline.cut()) {
                (Gone::Closed, _) => "the client has gone",
                (Gone::Late, None) => "the client took too long",
                (Gone::Late, Some(_)) => "it made room for another connection",
            };
            thread.complaints.handshake_failed(client.peer, why);
            return Err(());
        }
        thread.activity.begins();
        let Transport::Secured(secured) = &mut client.transport else {
            return Err(());
        };
        let turn = thread.turns.take().await;
        // It may have waited for long, and nothing is computed for a connection that must end.
        if client.deadline.cut().is_some() {
            count(&thread.counts.handshakes_failed);
            return Err(());
        }
        let processed = secured.process();
        turn.over().await;
        match processed {
            Ok(()) => {}
            Err(error) => {
                count(&thread.counts.handshakes_failed);
                if let (SessionError::NotTls, Some(access)) = (&error, &thread.access) {
                    access.refused(client.peer, None, 400, "not-tls");
                }
                fail(thread, secured, &error);
                thread
                    .complaints
                    .handshake_failed(client.peer, &error.to_string());
                return Err(());
            }
        }
        if let Some(settled) = secured.settled() {
            // Bytes of the handshake that the socket does not take now are sent with the
            // next write.
            poll_fn(|context| {
                let _later = secured.poll_flush(context);
                Poll::Ready(())
            })
            .await;
            break settled;
        }
    };
    drop(newcomer);
    count(match settled.handshake {
        Handshake::Full => &thread.counts.handshakes_full,
        Handshake::Retried => &thread.counts.handshakes_retried,
        Handshake::Resumed => &thread.counts.handshakes_resumed,
    });
    Ok(Some(settled))
}

/// Tells the client why there is no session. Only what the socket takes immediately is
/// sent; the rest is lost.
fn fail(thread: &Thread, secured: &mut Secured, error: &SessionError) {
    let is_http = thread.config.upstream != UpstreamProtocol::Tcp;
    if *error == SessionError::NotTls && is_http {
        let mut out = thread.buffers.output();
        http1::write_answer(&mut out, 400, CLEAR_TEXT, None, None, true, false);
        secured.send_in_clear(&out);
        thread.buffers.put_output(out);
    } else {
        // The TLS session has already queued an alert, which is sent here.
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let _unheard = secured.poll_flush(&mut context);
    }
}
