//! How the forwarding path shuts down: which stage it is in, depending on time and
//! arrivals.
//!
//! No client confirms that it has stopped using an address, so a server that shuts down
//! keeps accepting for a while. Time is an argument; the threads act on the stage.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{SockFilter, SockRef};

/// What the threads do at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Everything is served as usual.
    Serving,
    /// Connections are accepted, and every answer announces the end of its connection.
    Leaving,
    /// No new connection begins. Connections whose handshake has begun are accepted.
    Closing,
    /// The listener and idle connections are closed. Requests in flight continue.
    Closed,
    /// Everything ends.
    Cut,
}

/// What all threads must know of a shutdown, on the process's clock, in milliseconds.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// When a client last arrived.
    latest: AtomicU64,
    /// The deadline for requests in flight.
    deadline: AtomicU64,
}

impl Default for Arrival {
    fn default() -> Self {
        Self {
            latest: AtomicU64::new(0),
            deadline: AtomicU64::new(u64::MAX),
        }
    }
}

impl Arrival {
    /// Called only while the proxy shuts down, because nothing reads it before.
    pub(crate) fn set(&self, now: Duration) {
        self.latest.store(now.as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Duration {
        Duration::from_millis(self.latest.load(Ordering::Relaxed))
    }

    pub(crate) fn set_deadline(&self, at: Duration) {
        let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        self.deadline.store(at, Ordering::Relaxed);
    }

    /// Far in the future while nothing shuts down.
    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline.load(Ordering::Relaxed))
    }
}

/// How long before the deadline every client of a WebSocket has been told to leave.
const TOLD_BEFORE: Duration = Duration::from_secs(5);

/// When one client of a WebSocket is told to leave, if it may be told from `now` on. `share`, from 0
/// to 1, is random, so that not all clients come back in the same second.
pub(crate) fn time_to_leave(now: Duration, deadline: Duration, share: f64) -> Duration {
    let time = deadline.saturating_sub(now).saturating_sub(TOLD_BEFORE);
    now.saturating_add(time.mul_f64(share))
}

/// How long handshakes that have begun may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(100);

/// The times of a shutdown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Connections are accepted until no client has arrived for this long.
    pub(crate) quiet: Duration,
    /// Connections are accepted for at least this long.
    pub(crate) min: Duration,
    /// The deadline for requests in flight.
    pub(crate) deadline: Duration,
    /// How long after the deadline everything ends. Upgraded connections may go on for
    /// this long, and a supervisor stops its workers (the endpoints) in this time.
    pub(crate) linger: Duration,
}

/// A shutdown that has begun.
#[derive(Debug)]
pub(crate) struct Departure {
    pace: Pace,
    begun: Duration,
    closing: Option<Duration>,
}

impl Departure {
    pub(crate) fn new(pace: Pace, now: Duration) -> Self {
        Self {
            pace,
            begun: now,
            closing: None,
        }
    }

    /// The stage at `now`, if a client last arrived at `arrival`.
    pub(crate) fn stage(&mut self, now: Duration, arrival: Duration) -> Stage {
        let Pace {
            quiet,
            min,
            deadline,
            linger,
        } = self.pace;
        let elapsed = now.saturating_sub(self.begun);
        if elapsed >= deadline.max(min).saturating_add(linger) {
            return Stage::Cut;
        }
        if self.closing.is_none() {
            let is_quiet = now.saturating_sub(arrival.max(self.begun)) >= quiet;
            // Some clients never learn that the server shuts down. Half of the time until the
            // deadline is reserved for requests in flight.
            if elapsed >= min && (is_quiet || elapsed >= deadline / 2) {
                self.closing = Some(now);
            }
        }
        match self.closing {
            None => Stage::Leaving,
            Some(since) if now < since + HANDSHAKE_TIMEOUT => Stage::Closing,
            Some(_) => Stage::Closed,
        }
    }
}

/// Stops new connections on a listening socket. SYNs are dropped, so that clients try again
/// and are refused once the socket is closed. Without this, `close` would reset connections
/// that arrive after the last `accept`.
///
/// The classic BPF program sees a segment from its TCP header on (`tcp_filter`,
/// `net/ipv4/tcp_ipv4.c`). It needs no privilege.
///
/// # Errors
/// The kernel refuses the program (`SO_ATTACH_FILTER`, socket(7)).
pub(crate) fn refuse_new(listener: &impl AsFd) -> std::io::Result<()> {
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn departure(quiet: u64, min: u64, deadline: u64) -> Departure {
        let pace = Pace {
            quiet: ms(quiet),
            min: ms(min),
            deadline: ms(deadline),
            linger: Duration::ZERO,
        };
        Departure::new(pace, ms(1000))
    }

    #[test]
    fn a_quiet_server_closes_after_its_quiet_time_and_not_before_its_minimum() {
        let mut soon = departure(200, 0, 10_000);
        assert_eq!(soon.stage(ms(1199), ms(0)), Stage::Leaving);
        assert_eq!(soon.stage(ms(1200), ms(0)), Stage::Closing);
        assert_eq!(soon.stage(ms(1300), ms(1250)), Stage::Closed);
        let mut late = departure(200, 3000, 10_000);
        assert_eq!(late.stage(ms(3999), ms(0)), Stage::Leaving);
        assert_eq!(late.stage(ms(4000), ms(0)), Stage::Closing);
    }

    #[test]
    fn arrivals_keep_a_server_open_but_leave_half_the_time_for_requests_in_flight() {
        let mut busy = departure(200, 0, 10_000);
        for now in (1000..6000).step_by(100) {
            assert_eq!(busy.stage(ms(now), ms(now - 50)), Stage::Leaving);
        }
        assert_eq!(busy.stage(ms(6000), ms(5999)), Stage::Closing);
        assert_eq!(busy.stage(ms(10_999), ms(6000)), Stage::Closed);
        assert_eq!(busy.stage(ms(11_000), ms(6000)), Stage::Cut);
    }

    #[test]
    fn a_linger_time_only_postpones_the_cut() {
        let mut lingering = departure(200, 0, 10_000);
        lingering.pace.linger = ms(5000);
        assert_eq!(lingering.stage(ms(6000), ms(5999)), Stage::Closing);
        assert_eq!(lingering.stage(ms(15_999), ms(6000)), Stage::Closed);
        assert_eq!(lingering.stage(ms(16_000), ms(6000)), Stage::Cut);
    }

    #[test]
    fn clients_of_websockets_are_told_over_the_whole_time_and_before_the_deadline() {
        let at = |share| time_to_leave(ms(1000), ms(31_000), share);
        assert_eq!(
            (at(0.0), at(0.5), at(1.0)),
            (ms(1000), ms(13_500), ms(26_000))
        );
        assert_eq!(time_to_leave(ms(1000), ms(3000), 0.9), ms(1000));
    }

    #[test]
    fn a_deadline_of_zero_cuts_immediately() {
        assert_eq!(departure(2000, 0, 0).stage(ms(1000), ms(0)), Stage::Cut);
    }

    #[test]
    fn a_listener_that_refuses_new_connections_keeps_those_in_its_queue() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _kept = TcpStream::connect(address).unwrap();
        refuse_new(&listener).unwrap();
        let late = TcpStream::connect_timeout(&address, ms(100));
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
        listener.accept().unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
