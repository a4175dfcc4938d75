//! Tests of when an endpoint is ejected, for how long, and how it comes back.

use super::*;

const ALL: Rules = Rules {
    counts_errors: true,
};

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn note(outlier: &Outlier, outcome: Outcome, now: Duration) -> Verdict {
    outlier.note(outcome, now, ALL, || true, &mut fastrand::Rng::with_seed(5))
}

fn is_ejected(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Ejected(_))
}

/// When an ejection is over for certain.
fn over(seconds: u64) -> Duration {
    at(seconds * 1250)
}

#[test]
fn three_broken_connections_in_a_row_eject_for_a_second() {
    let outlier = Outlier::default();
    assert_eq!(note(&outlier, Outcome::Broken, at(10)), Verdict::Same);
    assert_eq!(note(&outlier, Outcome::Broken, at(10)), Verdict::Same);
    assert_eq!(note(&outlier, Outcome::Answered, at(10)), Verdict::Same);
    for _ in 0..2 {
        assert_eq!(note(&outlier, Outcome::Broken, at(20)), Verdict::Same);
    }
    assert_eq!(note(&outlier, Outcome::Broken, at(20)), Verdict::Ejected(1));
    assert!(outlier.is_ejected(at(1019)));
    assert!(!outlier.is_ejected(at(20) + over(1)));
}

#[test]
fn each_ejection_lasts_twice_as_long_up_to_a_minute_and_a_success_clears() {
    let outlier = Outlier::default();
    let mut now = at(0);
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert!(is_ejected(note(&outlier, Outcome::Refused, now)));
        let again = note(&outlier, Outcome::Refused, now);
        assert_eq!(again, Verdict::Same, "already ejected");
        assert!(
            outlier.is_ejected(now + at(seconds * 1000 - 1)),
            "{seconds}"
        );
        now += over(seconds);
        assert!(!outlier.is_ejected(now), "{seconds}");
    }
    assert_eq!(note(&outlier, Outcome::Answered, now), Verdict::Back);
    assert_eq!(note(&outlier, Outcome::Answered, now), Verdict::Same);
    assert_eq!(note(&outlier, Outcome::Refused, now), Verdict::Ejected(1));
    assert!(!outlier.is_ejected(now + over(1)));
}

/// Balancers that eject a pod at the same moment do not come back to it at the same moment.
#[test]
fn ejections_of_equal_length_end_at_different_times() {
    let mut random = fastrand::Rng::with_seed(1);
    let ends: std::collections::BTreeSet<u64> = (0..50)
        .map(|_| {
            let outlier = Outlier::default();
            outlier.note(Outcome::Refused, at(0), ALL, || true, &mut random);
            outlier.until.load(Ordering::Relaxed)
        })
        .collect();
    assert!(ends.len() > 10, "{ends:?}");
    assert!(ends.iter().all(|end| (1000..=1250).contains(end)));
}

#[test]
fn errors_eject_only_where_they_count() {
    let outlier = Outlier::default();
    let rules = Rules {
        counts_errors: false,
    };
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..20 {
        let verdict = outlier.note(Outcome::Error, at(0), rules, || true, &mut random);
        assert_eq!(verdict, Verdict::Same);
    }
    for _ in 0..4 {
        assert_eq!(note(&outlier, Outcome::Error, at(0)), Verdict::Same);
    }
    assert!(is_ejected(note(&outlier, Outcome::Error, at(0))));
}

/// Envoy's counter of errors in a row was not reset by an ejection, so an endpoint that went on
/// failing was ejected only once.
#[test]
fn an_endpoint_that_goes_on_failing_is_ejected_by_its_next_request() {
    let outlier = Outlier::default();
    for _ in 0..5 {
        note(&outlier, Outcome::Error, at(0));
    }
    let mut now = over(1);
    for times in 2..6 {
        assert!(!outlier.is_ejected(now));
        assert_eq!(
            note(&outlier, Outcome::Error, now),
            Verdict::Ejected(times),
            "one request is enough"
        );
        now += over(60);
    }
}

#[test]
fn more_than_a_fifth_of_failures_ejects_although_good_answers_lie_between() {
    for (good, is_outlier) in [(1, true), (3, true), (4, false), (9, false)] {
        let outlier = Outlier::default();
        let mut ejected = false;
        for n in 0..100 {
            let verdict = note(&outlier, Outcome::Error, at(n * 10));
            ejected |= is_ejected(verdict);
            for _ in 0..good {
                note(&outlier, Outcome::Answered, at(n * 10));
            }
        }
        assert_eq!(ejected, is_outlier, "one failure for {good} good answers");
    }
    // Four failures are a coincidence, and old ones do not count.
    let outlier = Outlier::default();
    for n in 0..100 {
        note(&outlier, Outcome::Error, at(n * 2600));
        assert_eq!(
            note(&outlier, Outcome::Answered, at(n * 2600)),
            Verdict::Same
        );
    }
}

/// An answer to an earlier request must not bring back an endpoint that fails every third time.
/// If the connection to an endpoint broke, an answer shows that it is back.
#[test]
fn an_answer_ends_an_ejection_for_broken_connections_only() {
    let outlier = Outlier::default();
    for _ in 0..5 {
        note(&outlier, Outcome::Error, at(0));
    }
    assert_eq!(note(&outlier, Outcome::Answered, at(100)), Verdict::Same);
    assert!(outlier.is_ejected(at(900)));
    assert_eq!(note(&outlier, Outcome::Answered, over(1)), Verdict::Back);
    let outlier = Outlier::default();
    note(&outlier, Outcome::Refused, at(0));
    assert_eq!(note(&outlier, Outcome::Answered, at(100)), Verdict::Back);
    assert!(!outlier.is_ejected(at(100)));
}

#[test]
fn after_an_ejection_one_request_at_a_time_tries_the_endpoint() {
    let outlier = Outlier::default();
    assert!(outlier.admits(at(0)) && outlier.enter(at(0)));
    note(&outlier, Outcome::Refused, at(0));
    assert!(!outlier.admits(at(999)));
    let now = over(1);
    assert!(outlier.admits(now));
    assert!(outlier.enter(now));
    // Two threads have seen that it may be tried.
    assert!(!outlier.enter(now));
    assert!(!outlier.admits(now + at(999)));
    // The first request takes long, as a long poll does.
    assert!(outlier.admits(now + at(1000)) && outlier.enter(now + at(1000)));
    note(&outlier, Outcome::Answered, now + at(1100));
    for _ in 0..3 {
        assert!(outlier.admits(now + at(1100)) && outlier.enter(now + at(1100)));
    }
}

/// When the others begin to fail as well, it must not stay away alone.
#[test]
fn an_ejected_endpoint_that_no_longer_stands_out_comes_back() {
    let outlier = Outlier::default();
    for _ in 0..5 {
        note(&outlier, Outcome::Error, at(0));
    }
    assert!(outlier.enter(over(1)));
    let random = &mut fastrand::Rng::with_seed(1);
    let verdict = outlier.note(Outcome::Error, over(1), ALL, || false, random);
    assert_eq!(verdict, Verdict::Same);
    assert!(!outlier.is_out() && outlier.admits(over(1)));
}

#[test]
fn whether_the_others_can_do_its_work_is_asked_only_for_failures_that_leave_a_doubt() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut note_if =
        |outlier: &Outlier, outcome, may| outlier.note(outcome, at(0), ALL, || may, &mut random);
    for (outcome, times) in [(Outcome::Error, 50), (Outcome::Broken, 50)] {
        let outlier = Outlier::default();
        for _ in 0..times {
            assert_eq!(note_if(&outlier, outcome, false), Verdict::Same);
        }
        assert_eq!(note_if(&outlier, outcome, true), Verdict::Ejected(1));
    }
    let outlier = Outlier::default();
    assert_eq!(
        note_if(&outlier, Outcome::Refused, false),
        Verdict::Ejected(1)
    );
}

/// Envoy counted the share before the ejection, and so ejected two of three at 50 %, and the
/// only one at any share.
#[test]
fn at_most_half_are_ejected_and_never_the_only_one() {
    for (all, most) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (100, 50)] {
        let mut ejected = 0;
        while may_eject_one_more(ejected, all) {
            ejected += 1;
        }
        assert_eq!(ejected, most, "of {all}");
    }
}

/// A database that is down makes all endpoints fail.
#[test]
fn an_endpoint_stands_out_only_if_it_fails_twice_as_often_as_the_others() {
    let stands = |this, others: &[(u32, u32)]| {
        let recent = |one: &(u32, u32)| (one.0 > 0).then_some(*one);
        stands_out(Some(this), others.iter().map(recent))
    };
    assert!(stands((5, 5), &[]));
    assert!(stands((5, 5), &[(0, 100)]));
    assert!(!stands((5, 5), &[(9, 10), (10, 10)]));
    assert!(stands((5, 5), &[(10, 10), (0, 40)]));
    assert!(stands((5, 5), &[(9, 10), (0, 0)]));
    assert!(!stands((30, 100), &[(20, 100)]));
    assert!(stands((30, 100), &[(15, 100)]));
}
