//! Scaling up and down.

use scaledapp_engine::{Action, Dispatch, Event, Exit, Failure, Slot, SlotState, WorkerState};

use crate::world::{World, scale, spawns};

use WorkerState::{Draining, Ready};

#[test]
fn scaling_up_is_done_when_all_are_ready() {
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        let mut world = World::ready(dispatch, 1);
        assert_eq!(spawns(&world.on(scale(3, 1))), [(1, 1), (2, 1)]);
        world.on(Event::Ready(world.newest(1)));
        assert_eq!(world.result(1), None);
        world.on(Event::Ready(world.newest(2)));
        assert_eq!(world.result(1), Some(Ok(())));
    }
}

#[test]
fn scaling_down_drains_the_highest_slots_and_is_done_when_they_are_reaped() {
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        let mut world = World::ready(dispatch, 3);
        world.on(scale(1, 1));
        assert_eq!(
            world.picture(),
            [(0, 1, Ready), (1, 1, Draining), (2, 1, Draining)]
        );
        let (one, two) = (world.newest(1), world.newest(2));
        assert_eq!(
            world.on(Event::Drained(two)),
            [Action::Terminate { worker: two }]
        );
        world.exit(two, Exit::Code(0));
        world.on(Event::Drained(one));
        assert_eq!(world.result(1), None);
        world.exit(one, Exit::Code(0));
        assert_eq!(world.result(1), Some(Ok(())));
        assert_eq!(world.engine.desired(), 1);
    }
}

#[test]
fn a_worker_that_crashes_while_it_drains_is_not_replaced() {
    let mut world = World::ready(Dispatch::Request, 2);
    world.on(scale(1, 1));
    assert_eq!(spawns(&world.exit(world.newest(1), Exit::Signal(11))), []);
    assert_eq!(
        world.incidents.last().unwrap().to_string(),
        "worker 1 ended while draining: signal 11"
    );
    assert_eq!(world.result(1), Some(Ok(())));
}

#[test]
fn a_new_worker_that_fails_its_first_start_fails_the_scaling_and_is_tried_again() {
    let mut world = World::ready(Dispatch::Request, 1);
    world.on(scale(2, 1));
    let (worker, slot, exit) = (world.newest(1), Slot(1), Exit::Code(1));
    let actions = world.exit(worker, exit);
    assert_eq!(
        world.result(1),
        Some(Err(Failure::Exited { worker, slot, exit }))
    );
    assert_eq!(
        (spawns(&actions), world.engine.desired()),
        (vec![(1, 1)], 2)
    );
}

#[test]
fn a_new_worker_that_is_never_ready_fails_the_scaling() {
    let mut world = World::ready(Dispatch::Request, 1);
    world.on(scale(2, 1));
    world.wake();
    let failure = world.result(1).unwrap().unwrap_err();
    assert!(
        matches!(failure, Failure::BootTimedOut { .. }),
        "{failure:?}"
    );
    assert_eq!(
        world.engine.slots().nth(1).unwrap().state,
        SlotState::Stopping
    );
}

#[test]
fn of_two_scalings_the_later_one_counts() {
    let mut world = World::ready(Dispatch::Request, 1);
    world.on(scale(4, 1));
    world.on(scale(2, 2));
    assert_eq!(world.result(1), Some(Err(Failure::Superseded)));
    world.settle_down();
    assert_eq!((world.result(2), world.engine.ready()), (Some(Ok(())), 2));
}

#[test]
fn a_repeated_number_without_a_caller_does_not_disturb_the_waiting_scaling() {
    let mut world = World::ready(Dispatch::Request, 1);
    world.on(scale(2, 1));
    world.on(Event::Scale {
        workers: 2,
        operation: None,
    });
    assert_eq!(world.result(1), None);
    world.settle_down();
    assert_eq!(world.result(1), Some(Ok(())));
}

#[test]
fn scaling_down_and_up_again_starts_beside_the_draining_worker() {
    let mut world = World::ready(Dispatch::Request, 2);
    world.on(scale(1, 1));
    let old = world.newest(1);
    assert_eq!(spawns(&world.on(scale(2, 2))), [(1, 1)]);
    world.on(Event::Ready(world.newest(1)));
    assert_eq!(
        (world.result(2), world.state(old)),
        (Some(Ok(())), Some(Draining))
    );
}

#[test]
fn scaling_to_nothing_and_back_works() {
    let mut world = World::ready(Dispatch::Connection, 2);
    world.on(scale(0, 1));
    world.settle_down();
    assert_eq!((world.result(1), world.engine.ready()), (Some(Ok(())), 0));
    world.on(scale(1, 2));
    world.settle_down();
    assert_eq!((world.result(2), world.engine.ready()), (Some(Ok(())), 1));
    assert_eq!(world.exited, None);
}
