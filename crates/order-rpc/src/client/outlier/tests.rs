use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn add(outlier: &mut Outlier, n_failed: u32, n_answered: u32, now: Instant) {
    for _ in 0..n_failed {
        outlier.record(Outcome::Failed, now);
    }
    for _ in 0..n_answered {
        outlier.record(Outcome::Answered, now);
    }
}

#[test]
fn share_of_failures_counts_and_not_their_row() {
    let now = Instant::now();
    for (n_failed, n_answered, n_failing) in [(3, 0, 3), (3, 3, 3), (3, 4, 0), (40, 39, 40)] {
        let mut outlier = Outlier::default();
        add(&mut outlier, n_failed, n_answered, now);
        assert_eq!(outlier.n_failing(now), n_failing, "{n_failed} {n_answered}");
    }
}

#[test]
fn window_begins_with_a_failure_and_ends() {
    let now = Instant::now();
    let mut outlier = Outlier::default();
    add(&mut outlier, 0, 1_000, now);
    add(&mut outlier, 3, 0, now);
    assert_eq!(outlier.n_failing(now), 3);
    assert_eq!(outlier.n_failing(now + WINDOW), 0);
    add(&mut outlier, 1, 0, now + WINDOW);
    assert_eq!(outlier.n_failing(now + WINDOW), 1);
}

#[test]
fn address_whose_window_ended_is_good_when_it_answers() {
    let now = Instant::now();
    let mut outlier = Outlier::default();
    assert!(outlier.is_good(now));
    add(&mut outlier, 3, 0, now);
    assert!(!outlier.is_good(now + WINDOW));
    add(&mut outlier, 0, 1, now + WINDOW);
    assert!(outlier.is_good(now + WINDOW));
}

#[test]
fn only_a_failure_ejects() {
    let now = Instant::now();
    let mut outlier = Outlier::default();
    add(&mut outlier, 10, 0, now);
    assert!(!outlier.record(Outcome::Answered, now));
    assert!(outlier.record(Outcome::Failed, now));
}

#[test]
fn ejections_double_up_to_the_longest_until_a_good_time_ends_the_row() {
    let mut now = Instant::now();
    let mut outlier = Outlier::default();
    for (seconds, time_in) in [
        (1, Duration::ZERO),
        (2, SECOND),
        (4, SECOND),
        (8, SECOND),
        (10, SECOND),
        (10, ROW_END),
        (1, SECOND),
        (2, SECOND),
    ] {
        assert!(outlier.eject(now));
        let end = now + Duration::from_secs(seconds);
        assert!(outlier.is_ejected(end - Duration::from_millis(1)));
        assert!(
            !outlier.eject(end - Duration::from_millis(1)),
            "one at a time"
        );
        assert!(!outlier.is_ejected(end));
        now = end + time_in;
    }
}

#[test]
fn calls_from_before_the_ejection_say_nothing() {
    let now = Instant::now();
    let mut outlier = Outlier::default();
    assert!(outlier.eject(now));
    add(&mut outlier, 10, 10, now);
    assert_eq!(outlier.n_failing(now), 0);
    assert_eq!(outlier.n_failing(now + SECOND), 0);
}

proptest! {
    #[test]
    fn no_address_is_out_for_long_or_without_failures(
        events in prop::collection::vec((any::<bool>(), 0_u64..3_000), 0..60),
    ) {
        let mut now = Instant::now();
        let mut outlier = Outlier::default();
        let mut n_failed = 0;
        for (is_failed, millis) in events {
            let outcome = if is_failed { Outcome::Failed } else { Outcome::Answered };
            n_failed += u32::from(is_failed);
            if outlier.record(outcome, now) {
                prop_assert!(n_failed >= FAILURES_MIN);
                prop_assert!(outlier.eject(now));
                n_failed = 0;
            }
            prop_assert!(!outlier.is_ejected(now + EJECTION_MAX));
            now += Duration::from_millis(millis);
        }
    }
}
