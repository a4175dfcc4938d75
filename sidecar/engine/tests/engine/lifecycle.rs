//! Workers that start, that crash, and that never become ready.

use std::time::Duration;

use scaledapp_engine::{
    Action, Cause, Dispatch, Event, Exit, Generation, Incident, Slot, SlotState, WorkerId,
    WorkerState,
};

use crate::world::{BOOT, GRACE, World, millis, seconds, spawns};

#[test]
fn every_slot_gets_a_worker_of_the_first_generation() {
    let world = World::start(Dispatch::Request, 3);
    let starting = WorkerState::Starting;
    assert_eq!(
        world.picture(),
        [(0, 1, starting), (1, 1, starting), (2, 1, starting)]
    );
    assert_eq!((world.engine.ready(), world.engine.desired()), (0, 3));
}

#[test]
fn a_worker_shows_when_it_started_and_when_its_state_began() {
    let mut world = World::start(Dispatch::Request, 1);
    let worker = world.newest(0);
    let since = |world: &World| {
        let view = world.engine.workers().next().unwrap();
        (view.started, view.since)
    };
    world.after(seconds(1));
    world.on(Event::Spawned(worker));
    assert_eq!(since(&world), (seconds(1), seconds(1)));
    world.after(seconds(1));
    world.on(Event::Ready(worker));
    world.after(seconds(1));
    assert_eq!(since(&world), (seconds(1), seconds(2)));
    world.on(Event::Stop { quick: true });
    world.after(seconds(1));
    let silent = Duration::ZERO;
    let cause = Cause::Hung { silent };
    // The worker is stopping already, so the kill does not change the time of its state.
    world.on(Event::Kill { worker, cause });
    assert_eq!(since(&world), (seconds(1), seconds(3)));
}

#[test]
fn zero_workers_are_allowed() {
    let mut world = World::start(Dispatch::Request, 0);
    assert_eq!((world.engine.ready(), world.engine.deadline()), (0, None));
    assert_eq!(
        world.on(Event::Stop { quick: false }),
        [Action::Exit { code: 0 }]
    );
}

#[test]
fn the_first_ready_worker_activates_the_first_generation() {
    let mut world = World::start(Dispatch::Connection, 2);
    assert_eq!(world.activated, []);
    world.on(Event::Ready(world.newest(1)));
    world.on(Event::Ready(world.newest(0)));
    assert_eq!(world.activated, [Generation(1)]);
}

#[test]
fn request_dispatch_activates_nothing() {
    let mut world = World::ready(Dispatch::Request, 2);
    world.on(crate::world::reload(1));
    world.settle_down();
    assert_eq!(world.activated, []);
}

#[test]
fn a_crash_is_followed_by_an_immediate_start_in_its_slot_only() {
    let mut world = World::ready(Dispatch::Request, 2);
    let actions = world.exit(world.newest(1), Exit::Signal(9));
    assert_eq!(spawns(&actions), [(1, 1)]);
    let restarts: Vec<u32> = world.engine.slots().map(|slot| slot.restarts).collect();
    assert_eq!(restarts, [0, 1]);
}

#[test]
fn after_each_crash_in_a_row_the_wait_is_longer_but_never_more_than_ten_seconds() {
    let mut world = World::ready(Dispatch::Request, 1);
    let mut waits = Vec::new();
    for _ in 0..11 {
        world.exit(world.newest(0), Exit::Code(1));
        let begun = world.now;
        if world.processes.is_empty() {
            let next_attempt = world.engine.deadline().unwrap();
            let state = world.engine.slots().next().unwrap().state;
            assert_eq!(state, SlotState::CrashLoop { next_attempt });
            assert_eq!(spawns(&world.wake()), [(0, 1)]);
        }
        waits.push(world.now.saturating_sub(begun).as_millis());
    }
    assert_eq!(
        waits,
        [
            0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000
        ]
    );
    assert_eq!(world.exited, None);
}

#[test]
fn thirty_seconds_of_service_make_the_next_crash_the_first_again() {
    let mut world = World::ready(Dispatch::Request, 1);
    for _ in 0..4 {
        world.exit(world.newest(0), Exit::Code(1));
        if world.processes.is_empty() {
            world.wake();
        }
    }
    world.on(Event::Ready(world.newest(0)));
    world.now += seconds(30);
    assert_eq!(
        spawns(&world.exit(world.newest(0), Exit::Code(1))),
        [(0, 1)]
    );
    assert_eq!(
        spawns(&world.exit(world.newest(0), Exit::Code(1))),
        [(0, 1)]
    );
    assert_eq!(spawns(&world.exit(world.newest(0), Exit::Code(1))), []);
}

#[test]
fn a_worker_that_served_for_a_second_is_replaced_immediately_whatever_came_before() {
    for (served, at_once) in [(millis(999), false), (seconds(1), true)] {
        let mut world = World::ready(Dispatch::Request, 1);
        for _ in 0..4 {
            world.exit(world.newest(0), Exit::Code(1));
            if world.processes.is_empty() {
                world.wake();
            }
        }
        world.on(Event::Ready(world.newest(0)));
        world.now += served;
        let actions = world.exit(world.newest(0), Exit::Code(1));
        assert_eq!(!spawns(&actions).is_empty(), at_once, "{served:?}");
    }
}

#[test]
fn a_worker_that_is_not_ready_in_time_is_ended_and_never_counts_as_ready() {
    let mut world = World::ready(Dispatch::Request, 2);
    world.exit(world.newest(1), Exit::Code(1));
    let late = world.newest(1);
    assert_eq!(world.engine.deadline(), Some(world.now + BOOT));
    let actions = world.wake();
    assert!(actions.contains(&Action::Terminate { worker: late }));
    assert!(matches!(
        world.incidents.last(),
        Some(Incident::BootTimedOut { slot: Slot(1), .. })
    ));
    world.on(Event::Ready(late));
    assert_eq!(
        (world.engine.ready(), world.state(late)),
        (1, Some(WorkerState::Stopping))
    );
    world.now += GRACE;
    assert!(
        world
            .on(Event::Wake)
            .contains(&Action::Kill { worker: late })
    );
    assert_eq!(world.engine.deadline(), None);
    assert_eq!(spawns(&world.exit(late, Exit::Signal(9))), []);
    assert_eq!(world.engine.deadline(), Some(world.now + millis(100)));
    assert_eq!(spawns(&world.wake()), [(1, 1)]);
}

#[test]
fn the_boot_timeout_counts_from_the_start_of_the_process() {
    let mut world = World::start(Dispatch::Request, 1);
    world.now += seconds(7);
    world.on(Event::Spawned(world.newest(0)));
    assert_eq!(world.engine.deadline(), Some(seconds(7) + BOOT));
}

#[test]
fn late_repeated_and_unknown_events_change_nothing() {
    let mut world = World::ready(Dispatch::Request, 2);
    let gone = world.newest(0);
    world.exit(gone, Exit::Code(1));
    let before = world.picture();
    for worker in [gone, world.newest(1), WorkerId(99)] {
        for event in [
            Event::Spawned(worker),
            Event::Ready(worker),
            Event::Drained(worker),
        ] {
            assert_eq!(world.on(event), [], "{event:?}");
        }
    }
    assert_eq!(world.on(Event::Exited(gone, Exit::Code(1))), []);
    assert_eq!(world.on(Event::Exited(WorkerId(99), Exit::Code(1))), []);
    assert_eq!(world.picture(), before);
}

/// Fails every start of every slot, in turns, until the engine gives up.
fn fail_all(world: &mut World, exit: Exit) -> usize {
    for failures in 0..100 {
        if world.exited.is_some() {
            return failures;
        }
        match world.in_state(WorkerState::Starting).first() {
            Some(&worker) => world.exit(worker, exit),
            None => world.wake(),
        };
    }
    panic!("it never gives up");
}

#[test]
fn an_app_that_never_starts_ends_the_supervisor_with_its_own_code() {
    let table = [
        (Exit::Code(3), 3),
        // No request was served, so this is not a success.
        (Exit::Code(0), 3),
        (Exit::Signal(11), 139),
        (Exit::Spawn { code: 127 }, 127),
        (Exit::Spawn { code: 126 }, 126),
    ];
    for dispatch in [Dispatch::Request, Dispatch::Connection] {
        for (exit, code) in table {
            let mut world = World::start(dispatch, 2);
            fail_all(&mut world, exit);
            assert_eq!(world.exited, Some(code));
            assert!(matches!(
                world.incidents.last(),
                Some(Incident::NothingStarts { .. })
            ));
            assert!(world.incidents.len() >= 7, "three attempts for each slot");
        }
    }
}

#[test]
fn an_app_that_is_never_ready_in_time_is_reported_as_late_and_not_as_ended_by_our_signal() {
    let mut world = World::start(Dispatch::Request, 1);
    while world.exited.is_none() {
        match world.in_state(WorkerState::Stopping).first() {
            // The supervisor stopped the worker, so its exit says nothing about its boot. The
            // supervisor still exits with the worker's code.
            Some(&late) => world.exit(late, Exit::Signal(15)),
            None => world.wake(),
        };
    }
    assert_eq!(world.exited, Some(143));
    let last = world.incidents.last().unwrap();
    assert!(
        last.to_string()
            .ends_with("; last: it was not ready in time")
    );
}

#[test]
fn a_command_that_cannot_be_executed_is_reported_without_delay() {
    let mut world = World::start(Dispatch::Request, 4);
    assert_eq!(fail_all(&mut world, Exit::Spawn { code: 127 }), 12);
    assert_eq!(world.now, Duration::ZERO);
}

#[test]
fn giving_up_ends_workers_that_are_still_starting_before_the_exit() {
    let mut world = World::start(Dispatch::Request, 2);
    for _ in 0..3 {
        world.exit(world.newest(0), Exit::Code(1));
        if world.in_state(WorkerState::Starting).len() < 2 {
            world.after(seconds(1));
        }
    }
    for _ in 0..3 {
        world.exit(world.newest(1), Exit::Code(4));
        if !world.engine.is_stopping() {
            world.after(millis(100));
        }
    }
    let fourth = world.newest(0);
    assert!(world.engine.is_stopping() && world.processes[&fourth].terminated);
    assert_eq!(world.exited, None);
    world.exit(fourth, Exit::Signal(15));
    assert_eq!(world.exited, Some(4));
}

#[test]
fn once_any_worker_was_ready_the_supervisor_never_exits_by_itself() {
    let mut world = World::start(Dispatch::Request, 2);
    world.on(Event::Ready(world.newest(1)));
    for _ in 0..60 {
        let worker = world.processes.keys().next().copied();
        match worker {
            Some(worker) => world.exit(worker, Exit::Spawn { code: 127 }),
            None => world.wake(),
        };
    }
    assert_eq!((world.exited, world.engine.is_stopping()), (None, false));
}

#[test]
fn incidents_are_readable_sentences() {
    let mut world = World::ready(Dispatch::Request, 1);
    world.now += seconds(2);
    world.exit(world.newest(0), Exit::Signal(9));
    world.exit(world.newest(0), Exit::Code(1));
    world.exit(world.newest(0), Exit::Spawn { code: 127 });
    let lines: Vec<String> = world.incidents.iter().map(ToString::to_string).collect();
    let expected = [
        "worker 0 (generation 1) ready after 0.0ns",
        "worker 0 ended unexpectedly: signal 9, after 2.0s of service; restarting at once",
        "worker 0 ended unexpectedly: exit code 1, before it was ready; restarting at once",
        "worker 0 ended unexpectedly: command not found, before it was ready; restarting in 100.0ms",
    ];
    assert_eq!(lines, expected);
    let failures: Vec<bool> = world.incidents.iter().map(Incident::is_failure).collect();
    assert_eq!(failures, [false, true, true, true]);
}

#[test]
fn a_worker_that_exits_after_it_served_is_no_crash_and_the_next_starts_immediately() {
    // Either the worker was ready for long, or it is known to have served.
    for (served_for, is_told) in [(seconds(5), false), (millis(200), true)] {
        let mut world = World::ready(Dispatch::Request, 1);
        for _ in 0..20 {
            world.now += served_for;
            let worker = world.newest(0);
            if is_told {
                world.on(Event::Served(worker));
            }
            assert_eq!(spawns(&world.exit(worker, Exit::Code(0))), [(0, 1)]);
            let incident = world.incidents.last().unwrap();
            assert!(
                matches!(incident, Incident::Finished { .. }) && !incident.is_failure(),
                "{incident}"
            );
            world.on(Event::Ready(world.newest(0)));
        }
    }
}

#[test]
fn a_worker_that_has_served_is_replaced_soon_however_often_it_crashes() {
    let longest = |has_served: bool| {
        let mut world = World::ready(Dispatch::Request, 1);
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            world.now += millis(50);
            let worker = world.newest(0);
            if has_served {
                world.on(Event::Served(worker));
            }
            world.exit(worker, Exit::Code(1));
            let Some(Incident::Exited { restart_in, .. }) = world.incidents.last() else {
                panic!("{:?}", world.incidents.last());
            };
            longest = longest.max(*restart_in);
            world.after(*restart_in);
            world.on(Event::Ready(world.newest(0)));
        }
        longest
    };
    assert!(longest(true) <= millis(200), "{:?}", longest(true));
    assert!(longest(false) >= seconds(5), "nothing shows that it works");
}

#[test]
fn an_end_that_is_not_orderly_is_a_crash() {
    let told = |exit, served_for, is_told| {
        let mut world = World::ready(Dispatch::Request, 1);
        world.now += served_for;
        let worker = world.newest(0);
        if is_told {
            world.on(Event::Served(worker));
        }
        world.exit(worker, exit);
        let incident = world.incidents.last().unwrap();
        matches!(incident, Incident::Exited { .. }) && incident.is_failure()
    };
    assert!(told(Exit::Code(1), seconds(60), true));
    assert!(told(Exit::Signal(9), seconds(60), true));
    // A daemon that detaches from its starter, or an app that exits for lack of work.
    assert!(told(Exit::Code(0), millis(200), false));
    // The supervisor has killed this worker, so exit code 0 does not count.
    let mut world = World::ready(Dispatch::Request, 1);
    world.now += seconds(60);
    let worker = world.newest(0);
    world.on(Event::Kill {
        worker,
        cause: Cause::Hung {
            silent: seconds(60),
        },
    });
    world.exit(worker, Exit::Code(0));
    assert!(matches!(
        world.incidents.last(),
        Some(Incident::Exited { .. })
    ));
    let mut world = World::start(Dispatch::Request, 1);
    let worker = world.newest(0);
    world.on(Event::Served(worker));
    world.exit(worker, Exit::Code(0));
    assert!(matches!(
        world.incidents.last(),
        Some(Incident::Exited {
            ready_for: None,
            ..
        })
    ));
}
