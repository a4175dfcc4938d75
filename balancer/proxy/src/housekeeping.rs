//! What a forwarding thread does between requests: it moves its clock on, gives memory
//! back, and closes what is not needed any more.

use std::rc::Rc;
use std::time::Duration;

use crate::clock::{self, REST_INTERVAL};
use crate::connections::Connections;
use crate::drain::Stage;
use crate::memory::Pressure;
use crate::metrics::add;
use crate::occupancy::STALL_GRACE;
use crate::thread::{IDLE_GRACE, Thread};

/// How often what is kept is looked through.
const SWEEP_INTERVAL: Duration = REST_INTERVAL;

/// Goes on until the thread ends.
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
        activity.next_tick().await;
        let now = clock::now();
        let tick = clock.tick(now, activity.stage() >= Stage::Closed);
        if occupancy.is_blocked() && clock.has_stalled(STALL_GRACE) {
            occupancy.one_could_end();
        }
        let pressure = memory.tell(occupancy.connections(), tick.held, now);
        shed(&thread, pressure);
        // An endpoint may be back without having said so.
        upstreams.queue.changed();
        // A connection that waits to be accepted waits for a tick that finds room.
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

/// Ends what must end so that memory is enough.
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
        // A client that has just been answered may be about to ask again.
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
