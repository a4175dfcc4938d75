//! Deadlines that pass, move and are dropped.

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn has_passed(deadline: &Deadline) -> bool {
    let context = Context::from_waker(Waker::noop());
    deadline.poll(&context).is_ready()
}

#[test]
fn a_deadline_passes_at_the_tick_after_it() {
    let clock = Rc::new(Clock::default());
    clock.tick(seconds(100), false);
    let deadline = clock.deadline();
    let context = Context::from_waker(Waker::noop());
    assert!(deadline.poll(&context).is_pending());
    deadline.set(seconds(5));
    clock.tick(seconds(104), false);
    assert!(deadline.poll(&context).is_pending());
    clock.tick(seconds(105), false);
    assert!(deadline.poll(&context).is_ready());
    deadline.set(seconds(5));
    assert!(deadline.poll(&context).is_pending(), "it can be set again");
}

#[test]
fn idle_connections_end_on_request_and_slots_of_ended_ones_are_reused() {
    let clock = Rc::new(Clock::default());
    let (idle, busy) = (clock.deadline(), clock.deadline());
    idle.set_idle(seconds(60));
    busy.set(seconds(60));
    assert!(
        clock.tick(seconds(1), true).is_busy,
        "one connection is busy"
    );
    assert!(has_passed(&idle) && !has_passed(&busy));
    busy.set(Duration::MAX);
    assert!(
        !clock.tick(seconds(1), true).is_busy,
        "no deadline must be checked often"
    );
    busy.set_lax(seconds(60));
    assert!(
        !clock.tick(seconds(1), true).is_busy,
        "a later check is enough"
    );
    assert!(!has_passed(&busy), "it is not idle");
    clock.tick(seconds(60), false);
    assert!(has_passed(&busy));
    drop((idle, busy));
    clock.tick(seconds(2), false);
    assert!(!clock.has_idle());
    let _again = (clock.deadline(), clock.deadline());
    assert_eq!(clock.steps.borrow().all.len(), 2, "their slots are reused");
}

#[test]
fn connections_that_have_been_idle_longest_end_first() {
    let clock = Rc::new(Clock::default());
    let (old, new, busy) = (clock.deadline(), clock.deadline(), clock.deadline());
    old.set_idle(seconds(75));
    busy.set(seconds(9));
    clock.set(seconds(2));
    // A shorter timeout does not make a connection older.
    new.set_idle(seconds(10));
    clock.end_idle(seconds(1));
    assert!(has_passed(&old) && !has_passed(&new) && !has_passed(&busy));
    clock.set(seconds(3));
    clock.end_idle(seconds(1));
    assert!(has_passed(&new));
    assert!(
        !clock.end_oldest_idle(Duration::ZERO),
        "both have been told already"
    );
    old.set_idle(seconds(75));
    busy.set_idle(seconds(75));
    old.set(seconds(9));
    assert!(clock.end_oldest_idle(Duration::ZERO) && has_passed(&busy));
    assert!(!clock.has_idle() && !has_passed(&old));
}

#[test]
fn waiting_connections_give_memory_back_and_those_that_hold_most_end_first() {
    let clock = Rc::new(Clock::default());
    let all = [10, 30, 20].map(|held| {
        let deadline = clock.deadline();
        deadline.set(seconds(60));
        deadline.holds(held);
        deadline
    });
    assert_eq!(clock.tick(seconds(1), false).held, 60);
    clock.squeeze();
    all[0].holds(11);
    clock.squeeze();
    let squeezed = [0, 1, 2].map(|at: usize| all[at].is_squeezed());
    assert_eq!(squeezed, [false, true, true]);
    clock.squeeze();
    assert!(!all[1].is_squeezed(), "once");
    assert_eq!(clock.end_largest(35), 2);
    let ended = [0, 1, 2].map(|at: usize| has_passed(&all[at]));
    assert_eq!(ended, [false, true, true]);
    assert_eq!(clock.tick(seconds(1), false).held, 11);
}

#[test]
fn only_the_connection_whose_client_has_kept_us_waiting_longest_gives_way() {
    let clock = Rc::new(Clock::default());
    let (old, new, works, answered) = (
        clock.deadline(),
        clock.deadline(),
        clock.deadline(),
        clock.deadline(),
    );
    works.set(seconds(3600));
    answered.set_stalled(seconds(60), Some(seconds(0)));
    old.set_stalled(seconds(60), Some(seconds(0)));
    clock.set(seconds(1));
    new.set_stalled(seconds(60), Some(seconds(1)));
    // This connection no longer waits for its client.
    answered.set_at(seconds(60));
    // A check in between changes nothing.
    old.set_stalled(seconds(61), Some(seconds(0)));
    assert!(
        !clock.end_longest_stalled(seconds(2)),
        "none has waited that long"
    );
    clock.set(seconds(2));
    assert!(clock.has_stalled(seconds(2)));
    assert!(clock.end_longest_stalled(seconds(2)));
    assert_eq!(old.cut(), Some(Cut::Room));
    assert!(has_passed(&old) && !has_passed(&new));
    // The connection that was cut no longer counts as stalled, and makes room only
    // once.
    old.set_stalled(seconds(90), Some(seconds(2)));
    assert!(has_passed(&old));
    clock.set(seconds(3));
    assert!(clock.end_longest_stalled(seconds(2)) && has_passed(&new));
    clock.set(seconds(59));
    assert!(!clock.end_longest_stalled(seconds(2)));
    assert!(!has_passed(&works) && !has_passed(&answered));
}

#[test]
fn the_slot_of_a_parked_connection_is_reported_once() {
    let clock = Rc::new(Clock::default());
    let (late, evicted, unparked) = (clock.deadline(), clock.deadline(), clock.deadline());
    for deadline in [&evicted, &late, &unparked] {
        deadline.set_idle(seconds(60));
    }
    let slots = [late.park(), evicted.park()];
    unparked.park();
    assert!(!has_passed(&unparked), "a task waits for it again");
    let told = || std::mem::take(&mut clock.steps.borrow_mut().passed);
    clock.squeeze();
    clock.tick(seconds(1), false);
    assert_eq!(told(), []);
    assert!(clock.end_oldest_idle(Duration::ZERO));
    assert_eq!(told(), [slots[1]]);
    assert!(has_passed(&evicted));
    clock.tick(seconds(60), false);
    assert_eq!(told(), [slots[0]], "the other was reported before");
    clock.tick(seconds(61), false);
    assert_eq!(told(), []);
}

#[test]
fn a_deadline_takes_little_memory() {
    assert!(size_of::<Step>() <= 56, "{}", size_of::<Step>());
    assert!(size_of::<Deadline>() <= 16);
}
