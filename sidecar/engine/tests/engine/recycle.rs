//! Workers that the supervisor replaces or kills by its own decision.

use scaledapp_engine::{
    Action, Cause, Dispatch, Event, Exit, Incident, SlotState, WorkerId, WorkerState,
};

use crate::world::{BOOT, World, reload, restart, scale, seconds, spawns};

use WorkerState::{Draining, Ready, Starting, Stopping};

const CAUSE: Cause = Cause::Memory {
    bytes: 310 << 20,
    limit: 300 << 20,
};

fn recycle(worker: WorkerId, surge: bool) -> Event {
    Event::Recycle {
        worker,
        cause: CAUSE,
        surge,
    }
}

#[test]
fn a_worker_serves_until_its_successor_is_ready() {
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        let mut world = World::ready(dispatch, 2);
        let old = world.newest(1);
        assert_eq!(spawns(&world.on(recycle(old, true))), [(1, 1)]);
        assert_eq!(world.engine.ready(), 2);
        world.on(Event::Ready(world.newest(1)));
        assert_eq!(
            world.picture(),
            [(0, 1, Ready), (1, 1, Draining), (1, 1, Ready)]
        );
        world.settle_down();
        assert_eq!(world.picture(), [(0, 1, Ready), (1, 1, Ready)]);
        assert!(world.incidents.iter().any(|incident| incident.to_string()
            == "worker 1 is replaced: it has 310 MiB of memory, more than 300 MiB"));
        // A recycling does not count as a crash.
        assert!(world.engine.slots().all(|slot| slot.restarts == 0));
    }
}

#[test]
fn without_memory_for_two_the_old_worker_ends_first() {
    let mut world = World::ready(Dispatch::Request, 2);
    let old = world.newest(0);
    assert_eq!(
        world.on(recycle(old, false)).last(),
        Some(&Action::Drain { worker: old })
    );
    assert_eq!(world.picture(), [(0, 1, Draining), (1, 1, Ready)]);
    assert_eq!(
        world.engine.slots().next().unwrap().state,
        SlotState::Stopping
    );
    world.on(Event::Drained(old));
    assert_eq!(spawns(&world.exit(old, Exit::Signal(15))), [(0, 1)]);
    assert_eq!(world.picture(), [(1, 1, Ready), (0, 1, Starting)]);
    world.settle_down();
    assert!(world.engine.slots().all(|slot| slot.restarts == 0));
}

#[test]
fn workers_are_recycled_one_at_a_time_and_each_once() {
    let mut world = World::ready(Dispatch::Request, 3);
    let workers = world.in_state(Ready);
    for _ in 0..3 {
        for worker in &workers {
            world.on(recycle(*worker, true));
        }
    }
    assert_eq!(world.in_state(Starting).len(), 1);
    world.settle_down();
    assert_eq!(world.engine.ready(), 3);
    let began = |incident: &&Incident| matches!(incident, Incident::RecycleBegan { .. });
    assert_eq!(world.incidents.iter().filter(began).count(), 3);
    assert!(
        world
            .in_state(Ready)
            .iter()
            .all(|new| !workers.contains(new))
    );
}

#[test]
fn a_successor_that_fails_leaves_the_old_one_and_may_be_tried_again() {
    let mut world = World::ready(Dispatch::Request, 1);
    let old = world.newest(0);
    world.on(recycle(old, true));
    world.exit(world.newest(0), Exit::Code(1));
    assert_eq!(world.picture(), [(0, 1, Ready)]);
    assert_eq!(spawns(&world.on(recycle(old, true))), [(0, 1)]);
}

#[test]
fn a_repeated_event_recycles_only_once() {
    // The event is repeated while the recycling runs, and while it waits for another one.
    for first in [0, 1] {
        let mut world = World::ready(Dispatch::Request, 2);
        let workers = world.in_state(Ready);
        world.on(recycle(workers[first], true));
        world.on(recycle(workers[1], true));
        world.on(recycle(workers[1], true));
        while world.newest(1) == workers[1] {
            world.behave();
        }
        assert_eq!(spawns(&world.exit(world.newest(1), Exit::Code(1))), []);
        assert_eq!(world.engine.ready(), 2);
        assert_eq!(spawns(&world.on(recycle(workers[1], true))), [(1, 1)]);
    }
}

#[test]
fn a_recycle_event_for_a_starting_worker_does_not_recycle_it_once_it_is_ready() {
    let mut world = World::ready(Dispatch::Request, 2);
    world.now = seconds(60);
    world.exit(world.newest(1), Exit::Code(1));
    let starting = world.newest(1);
    world.on(recycle(world.newest(0), true));
    world.on(recycle(starting, true));
    world.on(Event::Ready(starting));
    world.settle_down();
    assert_eq!(world.newest(1), starting);
}

#[test]
fn two_waiting_workers_are_recycled_one_after_the_other() {
    let mut world = World::ready(Dispatch::Request, 3);
    let workers = world.in_state(Ready);
    for worker in &workers {
        world.on(recycle(*worker, true));
    }
    // The failure of one replacement does not affect the waiting ones.
    world.exit(world.newest(0), Exit::Code(1));
    world.settle_down();
    assert_eq!(world.newest(0), workers[0]);
    assert!(world.newest(1) > workers[2] && world.newest(2) > workers[2]);
}

#[test]
fn a_worker_that_was_replaced_while_it_waited_is_left_alone() {
    let mut world = World::ready(Dispatch::Request, 2);
    let workers = world.in_state(Ready);
    world.on(recycle(workers[0], true));
    world.on(recycle(workers[1], true));
    // The waiting worker ends by itself, and its successor takes its slot.
    world.now = seconds(60);
    world.exit(workers[1], Exit::Code(1));
    let successor = world.newest(1);
    world.settle_down();
    assert_eq!(world.newest(1), successor);
}

#[test]
fn a_worker_that_a_reload_replaces_is_not_replaced_twice() {
    let mut world = World::ready(Dispatch::Request, 2);
    let workers = world.in_state(Ready);
    world.on(reload(1));
    for worker in workers {
        world.on(recycle(worker, true));
    }
    world.settle_down();
    assert_eq!(world.result(1), Some(Ok(())));
    assert_eq!(world.picture(), [(0, 2, Ready), (1, 2, Ready)]);
    let began = |incident: &Incident| matches!(incident, Incident::RecycleBegan { .. });
    assert!(!world.incidents.iter().any(began));
}

#[test]
fn recycling_works_together_with_scaling_restarting_and_stopping() {
    let mut world = World::ready(Dispatch::Request, 3);
    world.on(recycle(world.newest(2), false));
    world.on(scale(1, 1));
    world.on(restart(0, 2));
    world.settle_down();
    assert_eq!(world.result(1), Some(Ok(())));
    assert_eq!(world.result(2), Some(Ok(())));
    assert_eq!(world.engine.ready(), 1);
    world.on(recycle(world.newest(0), false));
    world.on(Event::Stop { quick: false });
    world.on(recycle(world.newest(0), true));
    world.settle_down();
    assert_eq!(world.exited, Some(0));
}

#[test]
fn a_worker_that_is_not_ready_is_not_recycled() {
    let mut world = World::start(Dispatch::Request, 1);
    assert_eq!(world.on(recycle(world.newest(0), true)), []);
    assert_eq!(world.on(recycle(WorkerId(99), true)), []);
}

#[test]
fn a_killed_worker_is_replaced_as_after_a_crash() {
    let mut world = World::ready(Dispatch::Request, 2);
    world.now = seconds(60);
    let hung = world.newest(0);
    let kill = Event::Kill {
        worker: hung,
        cause: Cause::Hung {
            silent: seconds(61),
        },
    };
    assert!(world.on(kill).contains(&Action::Kill { worker: hung }));
    assert_eq!(world.picture(), [(0, 1, Stopping), (1, 1, Ready)]);
    assert_eq!(world.on(kill), [], "once");
    assert_eq!(spawns(&world.exit(hung, Exit::Signal(9))), [(0, 1)]);
    assert_eq!(world.engine.slots().next().unwrap().restarts, 1);
}

#[test]
fn time_without_cpu_does_not_count_against_the_boot() {
    let mut world = World::start(Dispatch::Request, 1);
    world.on(Event::Starved(seconds(20)));
    world.after(BOOT + seconds(19));
    assert_eq!(world.picture(), [(0, 1, Starting)]);
    world.after(seconds(2));
    assert_eq!(world.picture(), [(0, 1, Stopping)]);
}
