//! The periodic work of a forwarding thread: it advances its clock, gives memory back, and
//! closes connections that are no longer needed.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use crate::clock::{self, REST_INTERVAL};
use crate::connections::Connections;
use crate::drain::Stage;
use crate::metrics::add;
use crate::occupancy::STALL_GRACE;
use crate::pressure::Pressure;
use crate::thread::{IDLE_GRACE, Thread};

/// How often kept connections are swept.
const SWEEP_INTERVAL: Duration = REST_INTERVAL;

/// The time between two ticks while memory is used up.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(10);

/// Runs until the thread ends.
pub(crate) async fn run(connections: Rc<Connections>, thread: Rc<Thread>) {
    let Thread {
        clock,
        activity,
        occupancy,
        memory,
        upstreams,
        ..
    } = &*thread;
    let mut swept = clock::now();
    loop {
        let mut ticks = pin!(activity.next_tick());
        tokio::select! {
            () = &mut ticks => {}
            // The next tick would be too late. Ends that follow take a few milliseconds.
            () = memory.is_exhausted() => {
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
        let now = clock::now();
        let tick = clock.tick(now, activity.stage() >= Stage::Closed);
        if occupancy.is_blocked() && clock.has_stalled(STALL_GRACE) {
            occupancy.one_could_end();
        }
        let pressure = memory.tell(occupancy.connections(), tick.held, now);
        shed(&thread, pressure);
        // An endpoint may be available again without any event.
        upstreams.queue.changed();
        // While a connection waits to be accepted, ticks stay frequent, because a tick may
        // find room for it.
        activity.ticked(now, tick.is_busy || occupancy.is_blocked());
        if now.saturating_sub(swept) >= SWEEP_INTERVAL {
            swept = now;
            upstreams.budget.borrow_mut().refill();
            connections.give_back_memory(now);
            clock.squeeze();
            upstreams.witness.rest(now);
            upstreams.sweep();
        }
    }
}

/// Ends connections so that memory suffices again.
fn shed(thread: &Thread, pressure: Pressure) {
    let Thread {
        clock,
        counts,
        memory,
        upstreams,
        ..
    } = thread;
    if pressure >= Pressure::Scarce {
        upstreams.pool.borrow_mut().empty();
        // A client that has just got an answer may be about to send its next request.
        let least = if pressure >= Pressure::Critical {
            Duration::ZERO
        } else {
            IDLE_GRACE
        };
        add(&counts.shed_idle, clock.end_idle(least));
    }
    if pressure >= Pressure::Critical
        && let Some(surplus) = memory.due_surplus(clock.now())
    {
        add(&counts.shed_largest, clock.end_largest(surplus));
    }
    if pressure >= Pressure::Tight {
        thread.complaints.memory_is_short(pressure);
    }
}
