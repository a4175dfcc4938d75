//! Reload: no old worker ends before a new one serves.

use scaledapp_engine::{
    Action, Dispatch, Event, Exit, Failure, Generation, Incident, Slot, WorkerState,
};

use crate::world::{BOOT, DRAIN, GRACE, World, millis, reload, scale, spawns};

use WorkerState::{Draining, Ready, Starting, Stopping};

#[test]
fn a_request_reload_goes_slot_by_slot_and_starts_the_new_before_it_drains_the_old() {
    let mut world = World::ready(Dispatch::Request, 2);
    assert_eq!(spawns(&world.on(reload(1))), [(0, 2)]);
    assert!(world.engine.reloading());
    assert_eq!(
        world.picture(),
        [(0, 1, Ready), (1, 1, Ready), (0, 2, Starting)]
    );
    let old = world.in_state(Ready);
    let actions = world.on(Event::Ready(world.newest(0)));
    assert!(actions.contains(&Action::Drain { worker: old[0] }));
    assert_eq!(
        world.picture(),
        [
            (0, 1, Draining),
            (1, 1, Ready),
            (0, 2, Ready),
            (1, 2, Starting)
        ]
    );
    assert_eq!(
        (world.engine.ready(), world.engine.generation()),
        (2, Generation(2))
    );
    // The next worker starts while the first one drains.
    assert_eq!(spawns(&actions), [(1, 2)]);
    assert_eq!(
        world.on(Event::Drained(old[0])),
        [Action::Terminate { worker: old[0] }]
    );
    assert_eq!(world.exit(old[0], Exit::Code(0)), []);
    world.on(Event::Ready(world.newest(1)));
    world.on(Event::Drained(old[1]));
    assert_eq!(world.result(1), None);
    world.exit(old[1], Exit::Code(0));
    assert_eq!(world.result(1), Some(Ok(())));
    assert_eq!(world.picture(), [(0, 2, Ready), (1, 2, Ready)]);
    assert!(!world.engine.reloading());
    assert!(matches!(
        world.incidents.last(),
        Some(Incident::ReloadFinished { .. })
    ));
}

#[test]
fn the_old_workers_of_a_request_reload_drain_side_by_side() {
    let mut world = World::ready(Dispatch::Request, 4);
    let old = world.in_state(Ready);
    world.on(reload(1));
    for slot in 0..4 {
        // Workers start one at a time, but without waiting for a drain.
        assert_eq!(world.in_state(Starting).len(), 1);
        world.on(Event::Ready(world.newest(slot)));
    }
    assert_eq!(world.in_state(Draining), old);
    assert_eq!((world.engine.ready(), world.result(1)), (4, None));
    world.after(DRAIN);
    assert_eq!(world.in_state(Stopping), old, "one drain time for all");
    for worker in &old {
        assert_eq!(world.result(1), None);
        world.exit(*worker, Exit::Code(0));
    }
    assert_eq!(world.result(1), Some(Ok(())));
}

#[test]
fn patience_covers_all_slots_in_turn_and_earlier_requests() {
    let each = BOOT + DRAIN + GRACE;
    let mut world = World::ready(Dispatch::Request, 3);
    assert_eq!(world.engine.patience(), each * 3);
    world.on(reload(1));
    // The canary counts as a fourth step.
    assert_eq!(world.engine.patience(), each * 4 * 2);
    assert_eq!(World::start(Dispatch::Request, 0).engine.patience(), each);
}

#[test]
fn without_memory_for_another_worker_the_next_start_waits_until_an_old_one_has_left() {
    let mut world = World::ready(Dispatch::Request, 3);
    let old = world.in_state(Ready);
    world.on(Event::Crowded(true));
    // No worker is draining yet: a reload needs memory for one more worker in any case.
    assert_eq!(spawns(&world.on(reload(1))), [(0, 2)]);
    assert_eq!(spawns(&world.on(Event::Ready(world.newest(0)))), []);
    assert_eq!(spawns(&world.on(Event::Drained(old[0]))), []);
    assert_eq!(spawns(&world.exit(old[0], Exit::Code(0))), [(1, 2)]);
    assert_eq!(spawns(&world.on(Event::Ready(world.newest(1)))), []);
    assert_eq!(spawns(&world.on(Event::Crowded(false))), [(2, 2)]);
    world.settle_down();
    assert_eq!(world.result(1), Some(Ok(())));
}

#[test]
fn old_workers_keep_draining_when_a_later_slot_fails() {
    let mut world = World::ready(Dispatch::Request, 2);
    let old = world.in_state(Ready);
    world.on(reload(1));
    world.on(Event::Ready(world.newest(0)));
    world.exit(world.newest(1), Exit::Code(1));
    assert_eq!(world.result(1).unwrap().unwrap_err().slot(), Some(Slot(1)));
    assert_eq!(
        world.picture(),
        [(0, 1, Draining), (1, 1, Ready), (0, 2, Ready)]
    );
    world.on(Event::Drained(old[0]));
    world.exit(old[0], Exit::Code(0));
    assert_eq!(world.picture(), [(1, 1, Ready), (0, 2, Ready)]);
}

#[test]
fn a_reload_with_one_worker_has_no_gap_in_either_dispatch() {
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        let mut world = World::ready(dispatch, 1);
        world.on(reload(1));
        while world.behave() {
            assert_eq!(world.engine.ready(), 1);
        }
        assert_eq!(world.picture(), [(0, 2, Ready)]);
        assert_eq!(world.result(1), Some(Ok(())));
    }
}

#[test]
fn an_old_worker_is_terminated_after_the_drain_timeout_and_killed_after_the_grace() {
    let mut world = World::ready(Dispatch::Request, 1);
    let old = world.newest(0);
    world.on(reload(1));
    world.on(Event::Ready(world.newest(0)));
    assert_eq!(world.engine.deadline(), Some(DRAIN));
    assert!(world.wake().contains(&Action::Terminate { worker: old }));
    assert!(matches!(
        world.incidents.last(),
        Some(Incident::DrainTimedOut { .. })
    ));
    assert_eq!(world.engine.deadline(), Some(DRAIN + GRACE));
    assert!(world.wake().contains(&Action::Kill { worker: old }));
    assert!(matches!(
        world.incidents.last(),
        Some(Incident::KilledAfterGrace { .. })
    ));
    assert_eq!((world.engine.deadline(), world.result(1)), (None, None));
    world.exit(old, Exit::Signal(9));
    assert_eq!(world.result(1), Some(Ok(())));
}

#[test]
fn a_canary_that_dies_fails_the_reload_at_once_and_touches_nothing_old() {
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        let mut world = World::ready(dispatch, 3);
        world.on(reload(1));
        let (worker, exit) = (world.newest(0), Exit::Code(1));
        let actions = world.exit(worker, exit);
        assert_eq!(spawns(&actions), []);
        let slot = Slot(0);
        assert_eq!(
            world.result(1),
            Some(Err(Failure::Exited { worker, slot, exit }))
        );
        assert_eq!(
            world.picture(),
            [(0, 1, Ready), (1, 1, Ready), (2, 1, Ready)]
        );
        assert_eq!(world.engine.generation(), Generation(1));
        assert!(!world.engine.reloading());
        let restarts: u32 = world.engine.slots().map(|slot| slot.restarts).sum();
        assert_eq!(restarts, 0);
    }
}

#[test]
fn a_canary_that_is_not_ready_in_time_fails_the_reload() {
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        let mut world = World::ready(dispatch, 2);
        world.on(reload(1));
        let canary = world.newest(0);
        world.wake();
        assert_eq!(world.now, BOOT);
        let failure = world.result(1).unwrap().unwrap_err();
        assert!(
            matches!(failure, Failure::BootTimedOut { slot: Slot(0), .. }),
            "{failure:?}"
        );
        assert_eq!(world.state(canary), Some(Stopping));
        world.on(Event::Ready(canary));
        assert_eq!(
            (world.engine.ready(), world.engine.generation()),
            (2, Generation(1))
        );
        world.exit(canary, Exit::Signal(15));
        assert_eq!(world.picture(), [(0, 1, Ready), (1, 1, Ready)]);
    }
}

#[test]
fn a_later_slot_that_fails_keeps_its_old_worker_and_ends_the_reload() {
    let mut world = World::ready(Dispatch::Request, 3);
    world.on(reload(1));
    let old = world.newest(1);
    while world.newest(1) == old {
        world.behave();
    }
    world.exit(world.newest(1), Exit::Code(1));
    assert_eq!(world.result(1).unwrap().unwrap_err().slot(), Some(Slot(1)));
    world.settle_down();
    assert_eq!(
        world.picture(),
        [(1, 1, Ready), (2, 1, Ready), (0, 2, Ready)]
    );
    world.on(reload(2));
    world.settle_down();
    assert_eq!(world.result(2), Some(Ok(())));
    assert!(
        world
            .picture()
            .iter()
            .all(|(_, generation, _)| *generation == 3)
    );
}

#[test]
fn a_connection_reload_takes_over_only_when_all_are_ready() {
    let mut world = World::ready(Dispatch::Connection, 3);
    assert_eq!(spawns(&world.on(reload(1))), [(0, 2)]);
    assert_eq!(
        spawns(&world.on(Event::Ready(world.newest(0)))),
        [(1, 2), (2, 2)]
    );
    world.on(Event::Ready(world.newest(2)));
    assert_eq!(world.activated, [Generation(1)]);
    assert_eq!(world.engine.ready(), 3);
    let actions = world.on(Event::Ready(world.newest(1)));
    let turn = Action::Activate {
        generation: Generation(2),
    };
    let turned = actions.iter().position(|action| *action == turn).unwrap();
    let drained = actions
        .iter()
        .position(|action| matches!(action, Action::Drain { .. }))
        .unwrap();
    assert!(turned < drained);
    assert_eq!(world.in_state(Draining).len(), 3);
    assert_eq!((world.engine.ready(), world.result(1)), (3, None));
    world.settle_down();
    assert_eq!(world.result(1), Some(Ok(())));
    assert_eq!(
        world.picture(),
        [(0, 2, Ready), (1, 2, Ready), (2, 2, Ready)]
    );
}

#[test]
fn any_failure_before_the_takeover_ends_the_new_generation() {
    // The failing worker is starting, is ready, or is the canary itself.
    for slot in [1, 2, 0] {
        let mut world = World::ready(Dispatch::Connection, 3);
        world.on(reload(1));
        world.on(Event::Ready(world.newest(0)));
        world.on(Event::Ready(world.newest(2)));
        world.exit(world.newest(slot), Exit::Signal(9));
        assert_eq!(
            world.result(1).unwrap().unwrap_err().slot(),
            Some(Slot(slot))
        );
        assert_eq!(world.in_state(Stopping).len(), 2);
        assert_eq!((world.engine.ready(), world.activated.len()), (3, 1));
        world.settle_down();
        assert_eq!(
            world.picture(),
            [(0, 1, Ready), (1, 1, Ready), (2, 1, Ready)]
        );
    }
}

#[test]
fn workers_left_from_a_failed_reload_do_not_count_for_the_next() {
    let mut world = World::ready(Dispatch::Connection, 2);
    world.on(reload(1));
    world.wake();
    assert_eq!(spawns(&world.on(reload(2))), [(0, 3)]);
    world.settle_down();
    assert_eq!(world.activated, [Generation(1), Generation(3)]);
    assert_eq!(world.result(2), Some(Ok(())));
}

#[test]
fn of_several_reloads_during_a_reload_the_last_one_waits_and_the_others_fail() {
    let mut world = World::ready(Dispatch::Request, 1);
    for operation in 1..=4 {
        world.on(reload(operation));
    }
    assert_eq!(world.result(2), Some(Err(Failure::Superseded)));
    assert_eq!(world.result(3), Some(Err(Failure::Superseded)));
    assert_eq!((world.result(1), world.result(4)), (None, None));
    world.settle_down();
    assert_eq!(
        (world.result(1), world.result(4)),
        (Some(Ok(())), Some(Ok(())))
    );
    assert_eq!(world.picture(), [(0, 3, Ready)]);
}

#[test]
fn a_queued_reload_begins_even_after_one_that_failed() {
    let mut world = World::ready(Dispatch::Request, 1);
    world.on(reload(1));
    world.on(reload(2));
    let actions = world.exit(world.newest(0), Exit::Code(1));
    assert_eq!(spawns(&actions), [(0, 2)]);
    world.settle_down();
    assert_eq!(world.result(2), Some(Ok(())));
}

#[test]
fn a_crash_looping_slot_is_simply_replaced() {
    let mut world = World::ready(Dispatch::Request, 1);
    for _ in 0..6 {
        world.exit(world.newest(0), Exit::Code(1));
        if world.processes.is_empty() {
            world.wake();
        }
    }
    world.exit(world.newest(0), Exit::Code(1));
    assert_eq!(spawns(&world.on(reload(1))), [(0, 2)]);
    // No new worker of the old generation is started beside the candidate.
    assert_eq!(spawns(&world.after(millis(20_000))), []);
    world.on(Event::Ready(world.newest(0)));
    assert_eq!(world.result(1), Some(Ok(())));
    // The failures of the old worker do not count for the new one.
    assert_eq!(
        spawns(&world.exit(world.newest(0), Exit::Code(1))),
        [(0, 2)]
    );
}

#[test]
fn a_reload_can_cure_an_app_that_never_started() {
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        let mut world = World::start(dispatch, 1);
        world.exit(world.newest(0), Exit::Code(1));
        world.exit(world.newest(0), Exit::Code(1));
        world.on(reload(1));
        world.on(Event::Ready(world.newest(0)));
        world.settle_down();
        assert_eq!(world.result(1), Some(Ok(())));
        assert_eq!(
            (world.engine.ready(), world.engine.generation()),
            (1, Generation(2))
        );
    }
}

#[test]
fn when_the_reload_fails_the_old_attempts_continue() {
    let mut world = World::start(Dispatch::Request, 1);
    world.exit(world.newest(0), Exit::Code(1));
    world.exit(world.newest(0), Exit::Code(1));
    world.on(reload(1));
    world.now += millis(500);
    let actions = world.exit(world.newest(0), Exit::Code(1));
    assert_eq!(spawns(&actions), [(0, 1)]);
    world.exit(world.newest(0), Exit::Code(7));
    assert_eq!(world.exited, Some(7));
}

#[test]
fn a_starting_worker_is_terminated_not_drained_when_its_successor_is_ready() {
    let mut world = World::ready(Dispatch::Request, 1);
    world.exit(world.newest(0), Exit::Code(1));
    let slow = world.newest(0);
    world.on(reload(1));
    let actions = world.on(Event::Ready(world.newest(0)));
    assert!(actions.contains(&Action::Terminate { worker: slow }));
    world.settle_down();
    assert_eq!(world.result(1), Some(Ok(())));
}

#[test]
fn a_worker_that_crashes_during_a_reload_is_restarted_as_usual() {
    for (dispatch, generation) in [(Dispatch::Request, 1), (Dispatch::Connection, 1)] {
        let mut world = World::ready(dispatch, 3);
        world.on(reload(1));
        let actions = world.exit(world.newest(2), Exit::Signal(9));
        assert_eq!(spawns(&actions), [(2, generation)]);
        world.settle_down();
        assert_eq!(world.result(1), Some(Ok(())));
        assert_eq!(world.engine.ready(), 3);
        assert!(
            world
                .picture()
                .iter()
                .all(|(_, generation, _)| *generation == 2)
        );
    }
}

#[test]
fn after_the_canary_a_crashed_slot_starts_with_the_new_generation() {
    let mut world = World::ready(Dispatch::Request, 3);
    world.on(reload(1));
    world.on(Event::Ready(world.newest(0)));
    let actions = world.exit(world.newest(2), Exit::Signal(9));
    assert_eq!(spawns(&actions), [(2, 2)]);
    world.settle_down();
    assert_eq!(world.result(1), Some(Ok(())));
}

#[test]
fn scaling_during_a_reload_ends_with_all_slots_in_the_new_generation() {
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        for (workers, behaved) in
            (0..=4).flat_map(|workers| (0..8).map(move |behaved| (workers, behaved)))
        {
            let mut world = World::ready(dispatch, 2);
            world.on(reload(1));
            for _ in 0..behaved {
                world.behave();
            }
            world.on(scale(workers, 2));
            world.settle_down();
            assert_eq!(world.result(1), Some(Ok(())));
            assert_eq!(world.result(2), Some(Ok(())));
            let picture: Vec<u32> = world
                .picture()
                .iter()
                .map(|(_, generation, _)| *generation)
                .collect();
            assert_eq!(
                picture,
                vec![2; workers as usize],
                "{dispatch:?} {workers} {behaved}"
            );
        }
    }
}

#[test]
fn a_reload_without_workers_finishes_immediately() {
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        let mut world = World::start(dispatch, 0);
        world.on(reload(1));
        assert_eq!(world.result(1), Some(Ok(())));
        assert_eq!(spawns(&world.on(scale(1, 2))), [(0, 2)]);
        world.settle_down();
        let activated = world.activated;
        assert_eq!(activated.is_empty(), dispatch == Dispatch::Request);
    }
}

#[test]
fn a_slot_added_before_the_takeover_starts_only_one_worker() {
    let mut world = World::ready(Dispatch::Connection, 1);
    world.on(reload(1));
    world.on(scale(2, 2));
    assert_eq!(
        world.picture(),
        [(0, 1, Ready), (0, 2, Starting), (1, 1, Starting)]
    );
    let mut world = World::ready(Dispatch::Connection, 2);
    world.on(reload(1));
    world.on(Event::Ready(world.newest(0)));
    assert_eq!(spawns(&world.on(scale(3, 2))), [(2, 2)]);
}

#[test]
fn the_supervisor_does_not_give_up_while_a_reload_may_be_the_cure() {
    let mut world = World::start(Dispatch::Connection, 1);
    world.exit(world.newest(0), Exit::Code(1));
    let old = world.newest(0);
    world.on(reload(1));
    let new = world.newest(0);
    world.exit(old, Exit::Code(1));
    world.wake();
    world.exit(world.newest(0), Exit::Code(1));
    assert!(!world.engine.is_stopping());
    world.on(Event::Ready(new));
    world.settle_down();
    assert_eq!((world.result(1), world.engine.ready()), (Some(Ok(())), 1));
}
