//! How the supervisor stops.

use scaledapp_engine::{Action, Dispatch, Event, Exit, Failure, SlotState, WorkerState};

use crate::world::{DRAIN, GRACE, World, reload, restart, scale};

const STOP: Event = Event::Stop { quick: false };
const QUICK: Event = Event::Stop { quick: true };

#[test]
fn a_stop_drains_all_in_parallel_and_exits_with_0_when_all_are_reaped() {
    let mut world = World::ready(Dispatch::Request, 3);
    world.on(STOP);
    assert_eq!(world.in_state(WorkerState::Draining).len(), 3);
    assert!(world.engine.is_stopping());
    assert_eq!((world.engine.ready(), world.engine.desired()), (0, 3));
    assert!(
        world
            .engine
            .slots()
            .all(|slot| slot.state == SlotState::Stopping)
    );
    for worker in world.in_state(WorkerState::Draining) {
        assert_eq!(
            world.on(Event::Drained(worker)),
            [Action::Terminate { worker }]
        );
        assert_eq!(world.exited, None);
        world.exit(worker, Exit::Code(1));
    }
    assert_eq!(world.exited, Some(0));
}

#[test]
fn a_worker_that_does_not_drain_is_terminated_and_then_killed() {
    let mut world = World::ready(Dispatch::Connection, 2);
    world.on(STOP);
    world.wake();
    assert_eq!(world.now, DRAIN);
    assert_eq!(world.in_state(WorkerState::Stopping).len(), 2);
    world.wake();
    assert_eq!(world.now, DRAIN + GRACE);
    assert!(world.processes.values().all(|process| process.killed));
    assert_eq!(world.engine.deadline(), None);
}

#[test]
fn starting_workers_are_terminated_immediately() {
    let mut world = World::start(Dispatch::Request, 2);
    world.on(Event::Ready(world.newest(0)));
    world.on(STOP);
    assert_eq!(world.state(world.newest(0)), Some(WorkerState::Draining));
    assert_eq!(world.state(world.newest(1)), Some(WorkerState::Stopping));
}

#[test]
fn a_waiting_restart_is_dropped() {
    let mut world = World::ready(Dispatch::Request, 1);
    world.exit(world.newest(0), Exit::Code(1));
    world.exit(world.newest(0), Exit::Code(1));
    assert_eq!(world.on(STOP), [Action::Exit { code: 0 }]);
}

#[test]
fn a_quick_stop_terminates_and_a_second_one_kills() {
    for first in [None, Some(STOP)] {
        let mut world = World::ready(Dispatch::Request, 2);
        first.map(|first| world.on(first));
        world.on(QUICK);
        assert!(
            world
                .processes
                .values()
                .all(|process| process.terminated && !process.killed)
        );
        world.on(QUICK);
        assert!(world.processes.values().all(|process| process.killed));
        assert_eq!(world.engine.deadline(), None);
        world.settle_down();
        assert_eq!(world.exited, Some(0));
    }
}

#[test]
fn a_second_polite_stop_changes_nothing() {
    let mut world = World::ready(Dispatch::Request, 2);
    world.on(STOP);
    assert_eq!(world.on(STOP), []);
}

#[test]
fn waiting_operations_fail_and_nothing_new_begins() {
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        let mut world = World::ready(dispatch, 2);
        for event in [reload(1), reload(2), restart(1, 3), scale(3, 4), STOP] {
            world.on(event);
        }
        for event in [reload(5), restart(0, 6), scale(1, 7)] {
            world.on(event);
        }
        for operation in 1..=7 {
            assert_eq!(
                world.result(operation),
                Some(Err(Failure::Stopping)),
                "{operation}"
            );
        }
        world.settle_down();
        assert_eq!(world.exited, Some(0));
        assert!(
            world
                .incidents
                .iter()
                .all(|incident| !incident.is_failure())
        );
    }
}

#[test]
fn crashes_during_the_stop_are_not_restarted() {
    let mut world = World::ready(Dispatch::Request, 2);
    world.on(STOP);
    for worker in world.in_state(WorkerState::Draining) {
        world.exit(worker, Exit::Signal(11));
    }
    assert_eq!(world.exited, Some(0));
}

#[test]
fn nothing_follows_the_exit() {
    let mut world = World::start(Dispatch::Request, 0);
    world.on(STOP);
    for event in [STOP, QUICK, Event::Wake, scale(3, 1), reload(2)] {
        assert_eq!(world.on(event), []);
    }
}
