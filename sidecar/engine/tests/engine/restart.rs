//! Restart of one slot.

use scaledapp_engine::{Action, Dispatch, Event, Exit, Failure, Generation, Slot, WorkerState};

use crate::world::{World, reload, restart, scale, spawns};

use WorkerState::{Draining, Ready};

#[test]
fn a_restart_replaces_one_worker_within_its_generation_without_a_gap() {
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        let mut world = World::ready(dispatch, 2);
        let old = world.newest(1);
        assert_eq!(spawns(&world.on(restart(1, 1))), [(1, 1)]);
        assert!(!world.engine.reloading());
        let actions = world.on(Event::Ready(world.newest(1)));
        assert!(actions.contains(&Action::Drain { worker: old }));
        assert_eq!(
            world.picture(),
            [(0, 1, Ready), (1, 1, Draining), (1, 1, Ready)]
        );
        assert_eq!((world.engine.ready(), world.result(1)), (2, None));
        world.settle_down();
        assert_eq!(world.result(1), Some(Ok(())));
        assert_eq!(world.engine.generation(), Generation(1));
    }
}

#[test]
fn a_restart_that_fails_leaves_the_old_worker() {
    let mut world = World::ready(Dispatch::Request, 2);
    world.on(restart(0, 1));
    let (worker, slot, exit) = (world.newest(0), Slot(0), Exit::Code(5));
    world.exit(worker, exit);
    assert_eq!(
        world.result(1),
        Some(Err(Failure::Exited { worker, slot, exit }))
    );
    assert_eq!(world.picture(), [(0, 1, Ready), (1, 1, Ready)]);
}

#[test]
fn a_slot_that_does_not_exist_is_refused_with_the_slots_that_do() {
    let mut world = World::ready(Dispatch::Request, 2);
    world.on(restart(2, 1));
    let failure = world.result(1).unwrap().unwrap_err();
    assert_eq!(failure.to_string(), "there is no slot 2: slots are 0 to 1");
}

#[test]
fn restarts_and_reloads_take_turns() {
    let mut world = World::ready(Dispatch::Request, 2);
    for event in [
        restart(0, 1),
        restart(1, 2),
        reload(3),
        restart(1, 4),
        restart(0, 5),
    ] {
        world.on(event);
    }
    assert_eq!(world.result(2), Some(Err(Failure::Superseded)));
    world.settle_down();
    for operation in [1, 3, 4, 5] {
        assert_eq!(world.result(operation), Some(Ok(())), "{operation}");
    }
    assert_eq!(world.picture(), [(1, 2, Ready), (0, 2, Ready)]);
}

#[test]
fn a_restart_whose_slot_is_scaled_away_fails_with_that_reason() {
    for queued in [false, true] {
        let mut world = World::ready(Dispatch::Request, 2);
        if queued {
            world.on(reload(1));
        }
        world.on(restart(1, 2));
        world.on(scale(1, 3));
        world.settle_down();
        let gone = Failure::NoSuchSlot {
            slot: Slot(1),
            desired: 1,
        };
        assert_eq!(world.result(2), Some(Err(gone)));
        assert_eq!(world.result(3), Some(Ok(())));
    }
}
