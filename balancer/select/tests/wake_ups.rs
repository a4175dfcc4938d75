//! A thousand wake-ups of an app without pods: however arrivals, departures, pods and answers
//! interleave, no held request is stuck, none overtakes, and few are unanswered at once.

#![allow(
    clippy::unwrap_used,
    reason = "all of this target is test code, helpers included"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use scaledapp_select::{Gone, Queue, Supply, Ticket, Visit};

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Waiting<'a> {
    number: usize,
    ticket: Ticket<'a>,
    woken: Arc<Woken>,
}

/// One app: requests, a pod that comes at some time, and a clock.
struct App<'a> {
    queue: &'a Queue,
    random: fastrand::Rng,
    now: Duration,
    waiting: VecDeque<Waiting<'a>>,
    at_pod: Vec<(Gone, bool)>,
    order: Vec<usize>,
    joined: usize,
    served: usize,
    left: usize,
    has_pod: bool,
    most: usize,
}

impl App<'_> {
    fn arrives(&mut self) {
        let ticket = self.queue.join(Visit::First).unwrap();
        self.waiting.push_back(Waiting {
            number: self.joined,
            ticket,
            // A request is polled once when it arrives.
            woken: Arc::new(Woken(AtomicBool::new(true))),
        });
        self.joined += 1;
    }

    /// Polls the requests that were woken, as a runtime does, in any order.
    fn run(&mut self) {
        loop {
            let woken = |one: &Waiting<'_>| one.woken.0.load(Ordering::SeqCst);
            let due: Vec<usize> = (0..self.waiting.len())
                .filter(|at| woken(&self.waiting[*at]))
                .collect();
            if due.is_empty() {
                return;
            }
            let at = due[self.random.usize(0..due.len())];
            let one = &mut self.waiting[at];
            one.woken.0.store(false, Ordering::SeqCst);
            let waker = Waker::from(Arc::clone(&one.woken));
            let turn = one.ticket.poll_turn(&Context::from_waker(&waker), self.now);
            if turn.is_pending() {
                continue;
            }
            if !self.has_pod {
                one.ticket.found_nothing(true);
                one.woken.0.store(true, Ordering::SeqCst);
                continue;
            }
            let one = self.waiting.remove(at).unwrap();
            self.order.push(one.number);
            self.served += 1;
            let is_stream = self.random.u8(0..10) == 0;
            if let Some(gone) = one.ticket.found() {
                self.at_pod.push((gone, is_stream));
            }
            self.most = self.most.max(self.at_pod.len());
        }
    }

    fn is_answered(&mut self) {
        let at = self.random.usize(0..self.at_pod.len());
        let (gone, is_stream) = self.at_pod[at];
        if !is_stream {
            self.at_pod.swap_remove(at);
            self.queue.is_over(gone, self.random.u8(0..50) != 0);
        }
    }

    /// What the clients' timers do: each waiting request is polled now and then.
    fn timers(&mut self) {
        self.now += Duration::from_millis(500);
        for one in &self.waiting {
            one.woken.0.store(true, Ordering::SeqCst);
        }
    }
}

#[test]
fn none_of_a_thousand_wake_ups_is_stuck() {
    for seed in 0..1000 {
        let queue = Queue::new(None, 4).holding(10_000);
        queue.set_supply(Supply::None, 0);
        let mut app = App {
            queue: &queue,
            random: fastrand::Rng::with_seed(seed),
            now: Duration::from_secs(1),
            waiting: VecDeque::new(),
            at_pod: Vec::new(),
            order: Vec::new(),
            joined: 0,
            served: 0,
            left: 0,
            has_pod: false,
            most: 0,
        };
        for _ in 0..300 {
            match app.random.u8(0..20) {
                0..=10 => app.arrives(),
                11 if !app.waiting.is_empty() => {
                    let at = app.random.usize(0..app.waiting.len());
                    drop(app.waiting.remove(at));
                    app.left += 1;
                }
                12 => {
                    // A pod comes, or dies at once.
                    app.has_pod = !app.has_pod;
                    let supply = if app.has_pod {
                        Supply::Served
                    } else {
                        Supply::None
                    };
                    queue.set_supply(supply, 1);
                    queue.changed();
                }
                13..=17 if !app.at_pod.is_empty() => app.is_answered(),
                18 => app.now += Duration::from_millis(7),
                _ => {}
            }
            app.run();
        }
        // The pod stays, and answers what is no stream.
        app.has_pod = true;
        queue.set_supply(Supply::Served, 1);
        queue.changed();
        app.run();
        for _ in 0..60 {
            for _ in 0..app.at_pod.len() {
                app.is_answered();
                app.run();
            }
            app.timers();
            app.run();
        }
        assert!(
            app.waiting.is_empty(),
            "seed {seed}: {} are stuck",
            app.waiting.len()
        );
        assert_eq!(app.served + app.left, app.joined, "seed {seed}");
        assert!(app.order.is_sorted(), "seed {seed}: one has overtaken");
        assert!(!queue.is_holding(), "seed {seed}");
        assert!(app.most <= 128 + 60, "seed {seed}: {} at once", app.most);
    }
}
