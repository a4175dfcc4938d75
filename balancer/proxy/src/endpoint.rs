//! An endpoint: where requests can go, what is known of it, and how busy it is.
//!
//! The owner of the table says whether it serves ([`Standing`]) and what it
//! reports; the forwarding path counts what it has in flight there. Which
//! endpoint is chosen is decided in `select`.

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use scaledapp_select::{self as select, EndedBy, Fate, Outlier, Queue, Report, Standing};
use tokio::sync::Notify;

use crate::clock;
use crate::counters::{Busy, Counters};

/// The process behind an endpoint, as its owner sees it.
pub trait Process: fmt::Debug + Send + Sync {
    /// Whether nothing that serves requests there can have ended. `false` where that is
    /// not certain. Called on a forwarding thread, so it must not block.
    fn surely_runs(&self) -> bool;

    /// Whether connections that it has accepted and read may end as if it had not
    /// accepted them (`SO_LINGER` with a time of 0). `true` where that is not certain.
    fn may_reset(&self) -> bool;

    /// It does not listen any more. Told once, on a forwarding thread, so it must not block.
    fn refuses(&self);
}

/// How long the end of a process may take to be noticed by its owner. The kernel closes
/// its sockets a moment before it can be reaped.
const REAP_TIMEOUT: Duration = Duration::from_millis(100);

/// Where requests can go. Shared between threads; its counters are exact.
#[derive(Debug)]
pub struct Endpoint {
    id: u64,
    /// Of the address, for [`crate::Algorithm::Hash`].
    key: u64,
    name: String,
    address: SocketAddr,
    standing: AtomicU8,
    in_flight: AtomicU32,
    /// Of these, connections that speak another protocol now.
    upgraded: AtomicU32,
    /// Of these, requests whose client is the side that is expected to act.
    held_up: AtomicU32,
    /// When it sent something last. Microseconds of the process's clock, as the
    /// next one.
    heard: AtomicU64,
    /// When the first one of those that await an answer came.
    asked: AtomicU64,
    capacity: AtomicU32,
    /// Reported in flight and queued, beyond what we had in flight at that time.
    beyond_ours: AtomicU32,
    closed: AtomicBool,
    retired: AtomicBool,
    hands_back: AtomicBool,
    /// Of those in flight, requests that may be what ends workers.
    suspects: AtomicU32,
    /// Requests that broke off there.
    broken: AtomicU32,
    /// Woken when a closed endpoint owes no answer any more, when its process has ended,
    /// and when it retires.
    changed: Notify,
    pub(crate) outlier: Outlier,
    counters: Option<Arc<Counters>>,
    process: Option<Box<dyn Process>>,
    /// An [`EndedBy`], or 0: it has not been said to have ended.
    ended: AtomicU8,
}

impl Busy for Endpoint {
    fn in_flight(&self) -> u32 {
        self.in_flight()
    }
}

/// All endpoints, as one snapshot.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// In no particular order.
    pub endpoints: Vec<Arc<Endpoint>>,
}

impl Endpoint {
    /// A serving endpoint with nothing in flight.
    pub fn new(name: impl Into<String>, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self::with(name.into(), address, None, None))
    }

    /// The same, counted in `counters` together with all others that are given these.
    pub fn with_counters(
        name: impl Into<String>,
        address: SocketAddr,
        counters: &Arc<Counters>,
    ) -> Arc<Self> {
        Self::counted(name.into(), address, counters, None)
    }

    /// The same for a process whose end its owner tells with [`Self::ended`].
    pub fn of_process(
        name: impl Into<String>,
        address: SocketAddr,
        counters: &Arc<Counters>,
        process: Box<dyn Process>,
    ) -> Arc<Self> {
        Self::counted(name.into(), address, counters, Some(process))
    }

    fn counted(
        name: String,
        address: SocketAddr,
        counters: &Arc<Counters>,
        process: Option<Box<dyn Process>>,
    ) -> Arc<Self> {
        let counted = Some(Arc::clone(counters));
        let endpoint = Arc::new(Self::with(name, address, counted, process));
        let busy: Weak<Self> = Arc::downgrade(&endpoint);
        counters.add(busy);
        endpoint
    }

    fn with(
        name: String,
        address: SocketAddr,
        counters: Option<Arc<Counters>>,
        process: Option<Box<dyn Process>>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            key: select::key(address),
            name,
            address,
            standing: AtomicU8::new(Standing::Serving as u8),
            in_flight: AtomicU32::new(0),
            upgraded: AtomicU32::new(0),
            held_up: AtomicU32::new(0),
            heard: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            capacity: AtomicU32::new(1),
            beyond_ours: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            changed: Notify::new(),
            outlier: Outlier::default(),
            counters,
            process,
            ended: AtomicU8::new(0),
            hands_back: AtomicBool::new(false),
            suspects: AtomicU32::new(0),
            broken: AtomicU32::new(0),
        }
    }

    /// Unique in the process: an endpoint that comes back is another one.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// As given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that were sent there and are not answered.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// For how long it has owed an answer and sent nothing at all: since its
    /// last byte, of whatever request or upgraded connection, or since the
    /// first one of those that await an answer came. `None`: it owes none.
    ///
    /// Nothing is owed to upgraded connections; and nothing at all while the client of
    /// any request is waited for, to send the rest of it or to take what there is of the
    /// answer: a process that does one thing at a time keeps all others waiting then.
    /// Silent streams and long polls cannot be told from a hung process. Late by up to
    /// 50 ms.
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        let in_flight = self.in_flight.load(Ordering::Acquire);
        if self.held_up.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let awaited = in_flight.saturating_sub(self.upgraded.load(Ordering::Relaxed));
        let since = self.heard().max(load_time(&self.asked));
        (awaited > 0).then(|| clock::at(now).saturating_sub(since))
    }

    /// When it sent something last, on the process's clock.
    pub(crate) fn heard(&self) -> Duration {
        load_time(&self.heard)
    }

    /// It has sent something.
    pub(crate) fn hear(&self, now: Duration) {
        store_time(&self.heard, now);
    }

    /// Counts an answer, if the endpoint has counters.
    pub(crate) fn count_answer(&self, status: u16) {
        if let Some(counters) = &self.counters {
            counters.answered(status);
        }
    }

    /// The same of a request that has got no whole answer.
    pub(crate) fn count_broken(&self) {
        if let Some(counters) = &self.counters {
            counters.broke();
        }
    }

    /// What its owner knows of it.
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            0 => Standing::Serving,
            1 => Standing::Suspect,
            2 => Standing::Draining,
            3 => Standing::Unready,
            _ => Standing::Unknown,
        }
    }

    /// Requests that wait for an endpoint look again when the table is sent
    /// again, or after a moment by themselves.
    pub fn set_standing(&self, standing: Standing) {
        let before = self.standing.swap(standing as u8, Ordering::Relaxed);
        if standing == Standing::Serving && before != standing as u8 {
            // It says that it is back, so what was before does not count any more.
            self.outlier.forgive();
        }
    }

    /// Takes what the endpoint says of its load. Until the next report our own
    /// requests are counted exactly and those of others as they were.
    pub fn report(&self, report: Report) {
        let all = report.in_flight.saturating_add(report.queued);
        let beyond = all.saturating_sub(self.in_flight());
        self.beyond_ours.store(beyond, Ordering::Relaxed);
        self.capacity
            .store(report.capacity.max(1), Ordering::Relaxed);
    }

    /// Whether it is left alone for a while because of its failures.
    pub fn is_ejected(&self) -> bool {
        self.outlier.is_ejected(clock::now())
    }

    /// Requests in flight for one unit of capacity, in thousandths.
    pub(crate) fn load(&self) -> u64 {
        let all = u64::from(self.in_flight()) + u64::from(self.beyond_ours.load(Ordering::Relaxed));
        all * 1000 / u64::from(self.capacity.load(Ordering::Relaxed))
    }

    /// No process listens there. One that has closed its listener is about to leave, so it
    /// gets no new request, not even over kept connections; what listens again is another
    /// endpoint. Returns whether this is known to be such a process: other endpoints may
    /// come back.
    pub(crate) fn refuses(&self) -> bool {
        let Some(process) = &self.process else {
            return false;
        };
        if !self.is_closed() {
            self.close();
            process.refuses();
        }
        true
    }

    /// Takes no new request from now on. Not to be undone.
    pub fn close(&self) {
        // Ordered against `enter`: either we see its count or it sees this.
        self.closed.store(true, Ordering::SeqCst);
        if self.owes_nothing() {
            self.changed.notify_waiters();
        }
    }

    /// It is gone: upgraded connections end, once what it wrote last was passed on.
    pub fn retire(&self) {
        self.close();
        self.retired.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Its process has ended, or is about to be ended by its owner. The first word
    /// counts: what is ended once does not end for another reason later.
    pub fn ended(&self, by: EndedBy) {
        let order = Ordering::SeqCst;
        let first = self.ended.compare_exchange(0, by as u8, order, order);
        if first.is_ok() {
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn ended_by(&self) -> Option<EndedBy> {
        match self.ended.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(EndedBy::Itself),
            2 => Some(EndedBy::Other),
            _ => Some(EndedBy::Outside),
        }
    }

    /// What became of its process when a connection to it broke off, and whether the
    /// request on that was the only one; waits a moment for its owner's word.
    pub(crate) async fn fate(&self) -> (Fate, bool) {
        let Some(process) = &self.process else {
            return (Fate::Unknown, false);
        };
        let upgraded = self.upgraded.load(Ordering::SeqCst);
        let owed = self
            .in_flight
            .load(Ordering::SeqCst)
            .saturating_sub(upgraded);
        // One of several may be the last to look.
        let was_alone = self.broken.fetch_add(1, Ordering::SeqCst) == 0 && owed <= 1;
        if self.ended_by().is_none() {
            if process.surely_runs() && self.ended_by().is_none() {
                self.broken.fetch_sub(1, Ordering::SeqCst);
                return (Fate::Lives, false);
            }
            let told = self.wait(|| self.ended_by().is_some());
            // If its owner does not tell in time, the fate stays unknown.
            drop(tokio::time::timeout(REAP_TIMEOUT, told).await);
        }
        let fate = self.ended_by().map_or(Fate::Unknown, Fate::Ended);
        (fate, was_alone)
    }

    /// Whether connections that were read there may end as if they had not been accepted.
    pub(crate) fn may_reset(&self) -> bool {
        let process = self.process.as_ref();
        process.is_none_or(|process| process.may_reset())
    }

    pub(crate) fn has_suspects(&self) -> bool {
        self.suspects.load(Ordering::Relaxed) > 0
    }

    /// A dispatcher of ours answers there, which may hand requests back. What else
    /// answers there is an app, which has no say in it.
    pub fn set_hands_back(&self, hands_back: bool) {
        self.hands_back.store(hands_back, Ordering::Relaxed);
    }

    pub(crate) fn hands_back(&self) -> bool {
        self.hands_back.load(Ordering::Relaxed)
    }

    /// Resolves when it owes no answer any more; meant for after [`Self::close`].
    ///
    /// Upgraded connections owe none. They may last for days, and only the app can
    /// end them in a way that their clients understand.
    pub async fn idle(&self) {
        self.wait(|| self.owes_nothing()).await;
    }

    /// Wakes those that wait for that.
    fn tell_if_idle(&self) {
        if self.closed.load(Ordering::SeqCst) && self.owes_nothing() {
            self.changed.notify_waiters();
        }
    }

    fn owes_nothing(&self) -> bool {
        // In this order: whatever ends in between leaves `upgraded` first, so a
        // request is never taken for an upgraded connection.
        let in_flight = self.in_flight.load(Ordering::SeqCst);
        in_flight <= self.upgraded.load(Ordering::SeqCst)
    }

    /// Resolves when the endpoint is retired.
    pub(crate) async fn retired(&self) {
        self.wait(|| self.retired.load(Ordering::SeqCst)).await;
    }

    async fn wait(&self, done: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between.
            changed.as_mut().enable();
            if done() {
                return;
            }
            changed.await;
        }
    }

    /// Whether it takes no new request.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Counts one request in, unless the endpoint is closed or has as many as
    /// the limit of `queue` allows. `queue` is told when it is over.
    pub(crate) fn enter<'a>(
        self: &Arc<Self>,
        queue: &'a Queue,
        now: Duration,
    ) -> Option<InFlight<'a>> {
        // Before it counts, so that a thread that sees the count sees the time.
        let owed = self.upgraded.load(Ordering::Relaxed);
        if self.in_flight() <= owed {
            store_time(&self.asked, now);
        }
        let before = match queue.limit() {
            None => self.in_flight.fetch_add(1, Ordering::SeqCst),
            Some(limit) => {
                let one_more = |count| (count < limit.get()).then_some(count + 1);
                let order = Ordering::SeqCst;
                let counted = self.in_flight.fetch_update(order, order, one_more);
                counted.ok()?
            }
        };
        if before <= owed {
            store_time(&self.asked, now);
        }
        let entered = InFlight {
            endpoint: Arc::clone(self),
            queue,
            is_upgraded: Cell::new(false),
            is_held_up: Cell::new(false),
            is_suspect: Cell::new(false),
            is_quiet: false,
        };
        // Dropped where it is closed: it counts itself out.
        (!self.closed.load(Ordering::SeqCst)).then_some(entered)
    }
}

fn load_time(time: &AtomicU64) -> Duration {
    Duration::from_micros(time.load(Ordering::Relaxed))
}

fn store_time(time: &AtomicU64, now: Duration) {
    time.store(now.as_micros() as u64, Ordering::Relaxed);
}

/// One request in flight; counts itself out when dropped.
#[derive(Debug)]
pub(crate) struct InFlight<'a> {
    endpoint: Arc<Endpoint>,
    queue: &'a Queue,
    is_upgraded: Cell<bool>,
    is_held_up: Cell<bool>,
    is_suspect: Cell<bool>,
    /// No waiting request is to be woken for it.
    is_quiet: bool,
}

impl InFlight<'_> {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// It speaks another protocol now: no answer is owed any more.
    pub(crate) fn upgrade(&self) {
        if !self.is_upgraded.replace(true) {
            self.endpoint.upgraded.fetch_add(1, Ordering::SeqCst);
            self.endpoint.tell_if_idle();
        }
    }

    /// It may be what ends workers: others of its kind go elsewhere if they can.
    pub(crate) fn suspect(&self) {
        if !self.is_suspect.replace(true) {
            self.endpoint.suspects.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether its client is the side that is expected to act, from `now` on.
    pub(crate) fn hold_up(&self, is_held_up: bool, now: Duration) {
        if self.is_held_up.replace(is_held_up) == is_held_up {
            return;
        }
        let endpoint = &self.endpoint;
        if is_held_up {
            endpoint.held_up.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Requests that waited for it meanwhile have waited for the client.
        store_time(&endpoint.asked, now);
        endpoint.held_up.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends without waking a waiting request: the endpoint could not be reached, and the
    /// next request would not reach it either.
    pub(crate) fn end_quietly(mut self) {
        self.is_quiet = true;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.is_held_up.get() {
            self.hold_up(false, clock::now());
        }
        if self.is_suspect.get() {
            self.endpoint.suspects.fetch_sub(1, Ordering::Relaxed);
        }
        // In this order: see `owes_nothing`.
        if self.is_upgraded.get() {
            self.endpoint.upgraded.fetch_sub(1, Ordering::SeqCst);
        }
        self.endpoint.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.endpoint.tell_if_idle();
        if !self.is_quiet {
            self.queue.freed();
        }
    }
}

#[cfg(test)]
mod tests;
