//! An endpoint: a target for requests, what is known of it, and how busy it is.
//!
//! The owner of the table says whether an endpoint serves ([`Standing`]) and passes on what
//! the endpoint reports. The forwarding path counts the requests in flight there. Which
//! endpoint is chosen is decided in `select`.

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use scaledapp_select::{
    self as select, EndedBy, Fate, Gone, Others, Outlier, Queue, Report, Standing, Warmth,
};
use tokio::sync::Notify;

use crate::clock;
use crate::counters::{Busy, Counters};

/// The process behind an endpoint, as its owner knows it.
pub trait Process: fmt::Debug + Send + Sync {
    /// Whether all processes that serve requests there certainly still run; `false` if that
    /// is unknown. Called on a forwarding thread, so it must not block.
    fn surely_runs(&self) -> bool;

    /// Whether the process may reset connections after it has accepted and read them, as if
    /// it had never accepted them (`SO_LINGER` with a time of 0). `true` if that is
    /// unknown.
    fn may_reset(&self) -> bool;

    /// The process no longer listens. Called once, on a forwarding thread, so it must not
    /// block.
    fn refuses(&self);
}

/// How long the owner may take to notice the end of a process. The kernel closes its
/// sockets a moment before the process can be reaped.
const REAP_TIMEOUT: Duration = Duration::from_millis(100);

/// A target for requests. Shared between threads; its counters are exact.
#[derive(Debug)]
pub struct Endpoint {
    id: u64,
    /// The hash key of the address, for [`crate::Algorithm::Hash`].
    key: u64,
    /// See [`select::tag`].
    tag: u64,
    name: String,
    address: SocketAddr,
    standing: AtomicU8,
    in_flight: AtomicU32,
    /// How many of the requests in flight are connections that have switched to another protocol.
    upgraded: AtomicU32,
    /// How many of the requests in flight have a client that is expected to act next.
    held_up: AtomicU32,
    /// When the endpoint last sent something, in microseconds on the process's clock.
    heard: AtomicU64,
    /// When the first of the requests that now await an answer arrived, in microseconds on the
    /// process's clock.
    asked: AtomicU64,
    capacity: AtomicU32,
    others: Others,
    closed: AtomicBool,
    retired: AtomicBool,
    hands_back: AtomicBool,
    /// How many of the requests in flight may be requests that end workers.
    suspects: AtomicU32,
    /// How many requests broke off there.
    broken: AtomicU32,
    /// Notified when a closed endpoint no longer owes an answer, when its process has
    /// ended, and when it retires.
    changed: Notify,
    pub(crate) outlier: Outlier,
    counters: Option<Arc<Counters>>,
    process: Option<Box<dyn Process>>,
    /// An [`EndedBy`], or 0 while no end has been reported.
    ended: AtomicU8,
    /// Since when it has served, in microseconds on the process's clock; 0 if it served before
    /// this process did.
    serves_since: AtomicU64,
    is_local: AtomicBool,
}

impl Busy for Endpoint {
    fn in_flight(&self) -> u32 {
        self.in_flight()
    }
}

/// All endpoints at one point in time.
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

    /// As [`Self::new`], but counted in `counters` together with all other endpoints that
    /// share them.
    pub fn with_counters(
        name: impl Into<String>,
        address: SocketAddr,
        counters: &Arc<Counters>,
    ) -> Arc<Self> {
        Self::counted(name.into(), address, counters, None)
    }

    /// As [`Self::with_counters`], for a process whose owner reports its end with
    /// [`Self::ended`].
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
            tag: select::tag(&name),
            name,
            address,
            standing: AtomicU8::new(Standing::Serving as u8),
            in_flight: AtomicU32::new(0),
            upgraded: AtomicU32::new(0),
            held_up: AtomicU32::new(0),
            heard: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            capacity: AtomicU32::new(1),
            others: Others::default(),
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
            serves_since: AtomicU64::new(clock::now().as_micros() as u64),
            is_local: AtomicBool::new(false),
        }
    }

    /// Unique in the process: an endpoint that comes back gets a new id.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    pub(crate) fn tag(&self) -> u64 {
        self.tag
    }

    /// The name as given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address at which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that were assigned to this endpoint and are not over, upgraded connections
    /// included.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests in flight that are not connections that have switched to another protocol.
    pub fn awaited(&self) -> u32 {
        let upgraded = self.upgraded.load(Ordering::Relaxed);
        self.in_flight().saturating_sub(upgraded)
    }

    /// For how long the endpoint has owed an answer and sent nothing at all: since its last
    /// byte, on any request or upgraded connection, or since the arrival of the first
    /// request that now awaits an answer. `None` if it owes none.
    ///
    /// Nothing is owed on upgraded connections. Nothing at all is owed while the client of
    /// any request is expected to send the rest of that request, or to read the answer so
    /// far: a process that does one thing at a time then serves no other request. Silent
    /// streams and long polls cannot be distinguished from a hung process. The result is
    /// late by up to 50 ms.
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        let in_flight = self.in_flight.load(Ordering::Acquire);
        if self.held_up.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let awaited = in_flight.saturating_sub(self.upgraded.load(Ordering::Relaxed));
        let since = self.heard().max(load_time(&self.asked));
        (awaited > 0).then(|| clock::at(now).saturating_sub(since))
    }

    /// When it last sent something, on the process's clock.
    pub(crate) fn heard(&self) -> Duration {
        load_time(&self.heard)
    }

    /// Records that it has sent something.
    pub(crate) fn hear(&self, now: Duration) {
        store_time(&self.heard, now);
    }

    /// Counts an answer, if the endpoint has counters.
    pub(crate) fn count_answer(&self, status: u16) {
        if let Some(counters) = &self.counters {
            counters.answered(status);
        }
    }

    /// Counts a request without a complete answer, if the endpoint has counters.
    pub(crate) fn count_broken(&self) {
        if let Some(counters) = &self.counters {
            counters.broke();
        }
    }

    /// Whether it serves, as far as its owner knows.
    pub fn standing(&self) -> Standing {
        standing(self.standing.load(Ordering::Relaxed))
    }

    /// Sets the standing. Requests that wait for an endpoint search again when the table is
    /// next published, or by themselves after a moment.
    pub fn set_standing(&self, standing: Standing) {
        let before = self::standing(self.standing.swap(standing as u8, Ordering::Relaxed));
        if standing == Standing::Serving && before != standing {
            // The endpoint reports that it is back, so earlier failures no longer count.
            let was_out = self.outlier.forgive();
            let is_new = match before {
                // It has reported that it did not serve.
                Standing::Draining | Standing::Unready => true,
                // This is its first report.
                Standing::Unknown => self.serves_since.load(Ordering::Relaxed) != 0,
                Standing::Suspect | Standing::Serving => was_out,
            };
            if is_new {
                self.begins(clock::now());
            }
        }
    }

    /// Its server has just begun to serve, perhaps again.
    pub(crate) fn begins(&self, now: Duration) {
        store_time(&self.serves_since, now);
    }

    /// It served before this process did, as far as is known: it is not new.
    pub fn has_served_before(&self) {
        self.serves_since.store(0, Ordering::Relaxed);
    }

    /// The share of its usual requests that it should get, if servers need `window` to warm up.
    pub(crate) fn warmth(&self, window: Duration, now: Duration) -> Warmth {
        let since = load_time(&self.serves_since);
        if window.is_zero() || since.is_zero() {
            return Warmth::FULL;
        }
        Warmth::of(window, now.saturating_sub(since))
    }

    /// Sets whether it is in this proxy's zone, and the proxy prefers its zone.
    pub fn set_local(&self, is_local: bool) {
        self.is_local.store(is_local, Ordering::Relaxed);
    }

    pub(crate) fn is_local(&self) -> bool {
        self.is_local.load(Ordering::Relaxed)
    }

    /// Records the load that the endpoint reports. Until the next report, the requests of
    /// this process are counted exactly, and those of other proxies as estimated.
    pub fn report(&self, report: Report) {
        self.others.report(report, self.in_flight(), clock::now());
        self.capacity
            .store(report.capacity.max(1), Ordering::Relaxed);
    }

    /// Whether it is ejected for a while because of its failures.
    pub fn is_ejected(&self) -> bool {
        self.outlier.is_ejected(clock::now())
    }

    /// How many requests it can process at the same time, as far as it has reported that.
    pub fn capacity(&self) -> u32 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Requests in flight divided by the capacity, in thousandths.
    pub(crate) fn load(&self) -> u64 {
        let all = u64::from(self.in_flight()) * 1000 + self.others.thousandths();
        all / u64::from(self.capacity.load(Ordering::Relaxed))
    }

    /// Records that no process listens there. A process that has closed its listener is
    /// about to exit, so the endpoint gets no new request, not even over kept connections;
    /// a process that listens there later is a new endpoint. Returns whether the endpoint
    /// has a [`Process`]. An endpoint without one stays open, because it may come back.
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

    /// Takes no new request from now on. This cannot be undone.
    pub fn close(&self) {
        // Ordered against `enter`: either this thread sees the count that `enter` writes, or
        // `enter` sees this flag.
        self.closed.store(true, Ordering::SeqCst);
        if self.owes_nothing() {
            self.changed.notify_waiters();
        }
    }

    /// The process has exited: upgraded connections end once its last bytes have been
    /// passed on.
    pub fn retire(&self) {
        self.close();
        self.retired.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Records that the process has ended, or is about to be ended by its owner. Only the
    /// first call counts: a process that was ended for one reason does not end for another
    /// one later.
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

    /// What became of the process when a connection to it broke off, and whether the
    /// request on that connection was the only one there. Waits a moment for the owner to
    /// report.
    pub(crate) async fn fate(&self) -> (Fate, bool) {
        let Some(process) = &self.process else {
            return (Fate::Unknown, false);
        };
        let upgraded = self.upgraded.load(Ordering::SeqCst);
        let owed = self
            .in_flight
            .load(Ordering::SeqCst)
            .saturating_sub(upgraded);
        // If several requests were there, each of them reads the counts before any of them
        // is removed from `in_flight`.
        let was_alone = self.broken.fetch_add(1, Ordering::SeqCst) == 0 && owed <= 1;
        if self.ended_by().is_none() {
            if process.surely_runs() && self.ended_by().is_none() {
                self.broken.fetch_sub(1, Ordering::SeqCst);
                return (Fate::Lives, false);
            }
            let told = self.wait(|| self.ended_by().is_some());
            // If the owner does not report in time, the fate stays unknown.
            drop(tokio::time::timeout(REAP_TIMEOUT, told).await);
        }
        let fate = self.ended_by().map_or(Fate::Unknown, Fate::Ended);
        (fate, was_alone)
    }

    /// Whether the process may reset connections that it has read, as if it had not
    /// accepted them.
    pub(crate) fn may_reset(&self) -> bool {
        let process = self.process.as_ref();
        process.is_none_or(|process| process.may_reset())
    }

    pub(crate) fn has_suspects(&self) -> bool {
        self.suspects.load(Ordering::Relaxed) > 0
    }

    /// Sets whether a ScaledApp dispatcher answers there, which may hand requests back. An
    /// app that answers there itself must not influence what is repeated.
    pub fn set_hands_back(&self, hands_back: bool) {
        self.hands_back.store(hands_back, Ordering::Relaxed);
    }

    pub(crate) fn hands_back(&self) -> bool {
        self.hands_back.load(Ordering::Relaxed)
    }

    /// Resolves when it no longer owes an answer; meant for use after [`Self::close`].
    ///
    /// Upgraded connections owe no answer. They may last for days, and only the app can end
    /// them in a way that their clients understand.
    pub async fn idle(&self) {
        self.wait(|| self.owes_nothing()).await;
    }

    /// Wakes tasks that wait in [`Self::idle`].
    fn tell_if_idle(&self) {
        if self.closed.load(Ordering::SeqCst) && self.owes_nothing() {
            self.changed.notify_waiters();
        }
    }

    fn owes_nothing(&self) -> bool {
        // Read in this order: a request that ends in between is removed from `upgraded`
        // first, so a plain request is never mistaken for an upgraded connection.
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
            // Registered before the check, so that no change is missed in between.
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

    /// Counts one more request, unless the endpoint is closed or has as many as the limit
    /// of `queue` allows. `queue` is notified when the request is over.
    pub(crate) fn enter<'a>(
        self: &Arc<Self>,
        queue: &'a Queue,
        now: Duration,
    ) -> Option<InFlight<'a>> {
        // Written before the count, so that a thread that sees the count also sees the
        // time.
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
            gone: Cell::new(None),
            is_quiet: false,
        };
        // If the endpoint is closed, `entered` is dropped, which takes the request out of
        // the count again.
        (!self.closed.load(Ordering::SeqCst)).then_some(entered)
    }
}

fn standing(number: u8) -> Standing {
    match number {
        0 => Standing::Serving,
        1 => Standing::Suspect,
        2 => Standing::Draining,
        3 => Standing::Unready,
        _ => Standing::Unknown,
    }
}

fn load_time(time: &AtomicU64) -> Duration {
    Duration::from_micros(time.load(Ordering::Relaxed))
}

fn store_time(time: &AtomicU64, now: Duration) {
    time.store(now.as_micros() as u64, Ordering::Relaxed);
}

/// One request in flight, which is counted until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight<'a> {
    endpoint: Arc<Endpoint>,
    queue: &'a Queue,
    is_upgraded: Cell<bool>,
    is_held_up: Cell<bool>,
    is_suspect: Cell<bool>,
    /// What the queue wants back, if the request was held.
    gone: Cell<Option<Gone>>,
    /// No waiting request is woken when this request ends.
    is_quiet: bool,
}

impl InFlight<'_> {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The connection has switched to another protocol: no answer is owed any more.
    pub(crate) fn upgrade(&self) {
        if !self.is_upgraded.replace(true) {
            self.endpoint.upgraded.fetch_add(1, Ordering::SeqCst);
            self.endpoint.tell_if_idle();
            self.settle(true);
        }
    }

    /// The request was held.
    pub(crate) fn was_held(&self, gone: Option<Gone>) {
        self.gone.set(gone);
    }

    /// Tells the queue what has become of a request that was held.
    fn settle(&self, is_answered: bool) {
        if let Some(gone) = self.gone.take() {
            self.queue.is_over(gone, is_answered);
        }
    }

    /// The request may be one that ends workers: similar requests go elsewhere if they can.
    pub(crate) fn suspect(&self) {
        if !self.is_suspect.replace(true) {
            self.endpoint.suspects.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sets whether its client is expected to act next, from `now` on.
    pub(crate) fn hold_up(&self, is_held_up: bool, now: Duration) {
        if self.is_held_up.replace(is_held_up) == is_held_up {
            return;
        }
        let endpoint = &self.endpoint;
        if is_held_up {
            endpoint.held_up.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Requests that waited for the endpoint in the meantime were waiting for that
        // client.
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
        // In this order; see `owes_nothing`.
        if self.is_upgraded.get() {
            self.endpoint.upgraded.fetch_sub(1, Ordering::SeqCst);
        }
        self.endpoint.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.endpoint.tell_if_idle();
        self.settle(!self.is_quiet);
        if !self.is_quiet {
            self.queue.freed();
        }
    }
}

#[cfg(test)]
mod tests;
