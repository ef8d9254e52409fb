use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Fails `n` calls in a row.
fn fail(outlier: &mut Outlier, n: u32, now: Instant) {
    for _ in 0..n {
        outlier.record(Outcome::Failed, outlier.epoch, now);
    }
}

fn answer(outlier: &mut Outlier, now: Instant) {
    outlier.record(Outcome::Answered, outlier.epoch, now);
}

#[test]
fn only_failures_in_a_row_eject() {
    let now = Instant::now();
    let mut outlier = Outlier::default();
    for _ in 0..10 {
        fail(&mut outlier, FAILURES_MAX - 1, now);
        assert_eq!(outlier.standing(now), Standing::In);
        answer(&mut outlier, now);
    }
    fail(&mut outlier, FAILURES_MAX, now);
    assert_eq!(outlier.standing(now), Standing::Out);
}

#[test]
fn one_refused_connection_or_one_goodbye_ejects() {
    let now = Instant::now();
    let mut refused = Outlier::default();
    refused.dial_failed(now);
    assert_eq!(refused.standing(now), Standing::Out);
    let mut draining = Outlier::default();
    draining.record(Outcome::Draining, 0, now);
    assert_eq!(draining.standing(now), Standing::Out);
}

#[test]
fn ejections_double_up_to_the_longest() {
    let mut now = Instant::now();
    let mut outlier = Outlier::default();
    fail(&mut outlier, FAILURES_MAX, now);
    for seconds in [1, 2, 4, 8, 10, 10] {
        now += Duration::from_millis(1_000 * seconds - 1);
        assert_eq!(outlier.standing(now), Standing::Out);
        now += Duration::from_millis(1);
        assert_eq!(outlier.standing(now), Standing::ProbeDue);
        assert!(outlier.begin_probe(now));
        fail(&mut outlier, 1, now);
    }
}

#[test]
fn row_ends_after_a_good_time_and_not_with_an_answer() {
    let mut now = Instant::now();
    let mut outlier = Outlier::default();
    for (time_in, length) in [(ROW_END, 1), (SECOND, 1), (ROW_END, 2), (SECOND, 1)] {
        fail(&mut outlier, FAILURES_MAX, now);
        let ejection = outlier.ejection.expect("ejected");
        assert_eq!(ejection.length, Duration::from_secs(length));
        now = ejection.until;
        assert!(outlier.begin_probe(now));
        answer(&mut outlier, now);
        assert_eq!(outlier.standing(now), Standing::In);
        now += time_in;
    }
}

#[test]
fn probe_is_one_call_and_its_loss_costs_one_more_wait() {
    let mut now = Instant::now();
    let mut outlier = Outlier::default();
    fail(&mut outlier, FAILURES_MAX, now);
    assert!(!outlier.begin_probe(now), "not due");
    now += SECOND;
    assert!(outlier.begin_probe(now));
    assert!(!outlier.begin_probe(now), "one is enough");
    assert_eq!(outlier.standing(now), Standing::Out);
    now += SECOND;
    assert!(outlier.begin_probe(now), "nobody heard of the first");
}

#[test]
fn calls_from_before_the_ejection_say_nothing() {
    let now = Instant::now();
    let mut outlier = Outlier::default();
    let before = outlier.epoch;
    outlier.record(Outcome::Draining, before, now);
    outlier.record(Outcome::Answered, before, now);
    assert_eq!(outlier.standing(now), Standing::Out);
    // One that was sent for want of another address does.
    answer(&mut outlier, now);
    assert_eq!(outlier.standing(now), Standing::In);
}

#[test]
fn connection_ends_only_the_ejection_for_want_of_one() {
    let mut now = Instant::now();
    let mut unreachable = Outlier::default();
    unreachable.dial_failed(now);
    unreachable.dial_succeeded(now);
    assert_eq!(unreachable.standing(now), Standing::In);

    let mut failing = Outlier::default();
    fail(&mut failing, FAILURES_MAX, now);
    failing.dial_succeeded(now);
    assert_eq!(failing.standing(now), Standing::Out);
    now += SECOND;
    assert!(failing.begin_probe(now));
    failing.dial_succeeded(now);
    assert_eq!(failing.standing(now), Standing::ProbeDue, "now by a call");
}

#[derive(Clone, Debug)]
enum Event {
    Record(Outcome),
    RecordOld(Outcome),
    DialFailed,
    DialSucceeded,
    Probe,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = || {
        prop_oneof![
            Just(Outcome::Answered),
            Just(Outcome::Failed),
            Just(Outcome::Draining),
        ]
    };
    prop_oneof![
        4 => outcome().prop_map(Event::Record),
        1 => outcome().prop_map(Event::RecordOld),
        1 => Just(Event::DialFailed),
        1 => Just(Event::DialSucceeded),
        2 => Just(Event::Probe),
        3 => (0_u64..15_000).prop_map(Event::Wait),
    ]
}

proptest! {
    #[test]
    fn nobody_is_out_for_long_or_without_a_reason(
        events in prop::collection::vec(event(), 0..60),
    ) {
        let mut now = Instant::now();
        let mut outlier = Outlier::default();
        let mut n_failures = 0;
        for event in events {
            let before = outlier.standing(now);
            match event {
                Event::Record(outcome) => {
                    outlier.record(outcome, outlier.epoch, now);
                    n_failures = match outcome {
                        Outcome::Failed => n_failures + 1,
                        Outcome::Answered | Outcome::Draining => 0,
                    };
                    let is_reason = outcome == Outcome::Draining
                        || n_failures >= FAILURES_MAX
                        || (outcome == Outcome::Failed && before != Standing::In);
                    prop_assert!(outlier.standing(now) == Standing::In || is_reason);
                    if outcome == Outcome::Answered {
                        prop_assert_eq!(outlier.standing(now), Standing::In);
                    }
                }
                Event::RecordOld(outcome) => {
                    outlier.record(outcome, outlier.epoch.wrapping_sub(1), now);
                    prop_assert_eq!(outlier.standing(now), before);
                }
                Event::DialFailed => {
                    outlier.dial_failed(now);
                    prop_assert_eq!(outlier.standing(now), Standing::Out);
                }
                Event::DialSucceeded => {
                    outlier.dial_succeeded(now);
                    prop_assert!(outlier.standing(now) != Standing::Out || before == Standing::Out);
                }
                Event::Probe => {
                    let has_begun = outlier.begin_probe(now);
                    prop_assert_eq!(has_begun, before == Standing::ProbeDue);
                }
                Event::Wait(millis) => now += Duration::from_millis(millis),
            }
            prop_assert!(outlier.standing(now + EJECTION_MAX) != Standing::Out);
        }
    }
}
