//! Claims whose outcome is unknown, locked jobs, and programs from before attempts were counted
//! when work begins.

use super::*;

/// Claims until something is due.
async fn claim_soon(store: &PostgresStore) -> Vec<Job> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let jobs = store.claim(10, LEASE).await.unwrap();
        if !jobs.is_empty() {
            return jobs;
        }
        assert!(Instant::now() < deadline, "nothing was given back");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Commits wait for a standby that is not there, for longer than answers are waited for.
#[tokio::test]
async fn claim_whose_commit_takes_too_long_burns_nothing_and_is_given_back() {
    let Ok(server) = PostgresServer::start(&[]).await else {
        skip!("a PostgreSQL of its own");
    };
    let store = PostgresStore::connect(PostgresConfig::new(server.url()), identity())
        .await
        .unwrap();
    let (sql, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    let mut connections = JoinSet::new();
    connections.spawn(async { connection.await.unwrap_or_default() });
    let slice = [due(1), due(2)];
    assert!(store.create(&slice).await.iter().all(is_new));

    let (hints, born_leased) = ([slice[1].id], [order(3, 100)]);
    wait_for_standby(&sql, &server.url(), "gone", &mut connections).await;
    let (claimed, hinted, born) = tokio::join!(
        store.claim(1, LEASE),
        store.claim_hinted(&hints, LEASE),
        store.create(&born_leased),
    );
    let is_unknown = |error| matches!(error, Some(Error::StoreUnavailable { .. }));
    assert!(is_unknown(claimed.err()) && is_unknown(hinted.err()));
    assert!(is_unknown(born.into_iter().next().unwrap().err()));
    wait_for_standby(&sql, &server.url(), "", &mut connections).await;

    let mut jobs = Vec::new();
    while jobs.len() < 3 {
        jobs.extend(claim_soon(&store).await);
    }
    for job in jobs {
        assert_eq!((job.attempt, job.attempt_in_round()), (2, 1));
    }
}

#[tokio::test]
async fn locked_job_holds_up_no_other() {
    let fixture = available!(fixture());
    let store = &fixture.store;
    let slice = orders(3);
    assert!(store.create(&slice).await.iter().all(is_new));
    let tokens = tokens(&slice);
    let lock = format!(
        "BEGIN; SELECT FROM jobs WHERE order_id = '{}' FOR UPDATE",
        slice[1].id.as_uuid()
    );
    fixture.run(&lock).await;

    let extended = store.extend(&tokens, LEASE).await.unwrap();
    let [applied, locked] = [Extended::Applied, Extended::Locked];
    assert_eq!(extended, [applied, locked, applied]);
    assert_eq!(fixture.queue().release(&tokens).await.unwrap(), 2);

    fixture.run("ROLLBACK").await;
    let extended = store.extend(&tokens, LEASE).await.unwrap();
    assert_eq!(extended, [Extended::Stale, applied, Extended::Stale]);
}

/// Another transaction holds the row of one order, or the external id that one order asks for.
#[tokio::test]
async fn locked_order_fails_alone() {
    let fixture = available!(fixture());
    let store = &fixture.store;
    let slice = orders(20);
    assert!(store.create(&slice).await.iter().all(is_new));
    let lock = format!(
        "BEGIN; SELECT FROM orders WHERE id = '{}' FOR UPDATE; \
        INSERT INTO orders (id, user_id, amount_minor, currency, status, version, external_id, \
            created_at, updated_at) \
        VALUES (gen_random_uuid(), 'ada', 1, 'EUR', 1, 1, 'held', now(), now())",
        slice[7].id.as_uuid()
    );
    fixture.run(&lock).await;

    let completions: Vec<_> = tokens(&slice)
        .into_iter()
        .map(|token| Completion {
            took: None,
            token,
            verdict: Verdict::Processed,
            trace_parent: None,
        })
        .collect();
    let mut new: Vec<_> = (100..120).map(|id| order(id, 100)).collect();
    for (n, order) in new.iter_mut().enumerate() {
        let name = if n == 3 {
            "held".to_owned()
        } else {
            n.to_string()
        };
        order.external_id = ExternalId::parse(&name).ok();
    }
    let (completed, created) = tokio::join!(store.complete(&completions), store.create(&new));

    for (n, completed) in completed.iter().enumerate() {
        let is_applied = matches!(completed, Ok(Completed::Applied(Some(_))));
        assert_eq!(is_applied, n != 7, "{completed:?}");
    }
    for (n, created) in created.iter().enumerate() {
        assert_eq!(created.is_ok(), n != 3, "{created:?}");
    }
    fixture.run("ROLLBACK").await;
    let completed = store.complete(&completions[7..8]).await;
    assert!(matches!(completed[..], [Ok(Completed::Applied(Some(_)))]));
    assert!(is_new(&store.create(&new[3..4]).await[0]));
}

/// What the program before this one sends: its claim, the end of a lease, a redrive.
const OLD_CLAIM: &str = "UPDATE jobs SET attempt = attempt + 1, due_at = now() + interval '1 hour' \
    WHERE due_at <= now()";
const OLD_RETRY: &str = "UPDATE jobs SET due_at = now() WHERE attempt > attempts_before \
    AND due_at <> 'infinity'";
const OLD_BURY: &str = "UPDATE jobs SET due_at = 'infinity'";
const OLD_REDRIVE: &str = "UPDATE jobs SET due_at = now(), attempts_before = attempt";

#[tokio::test]
async fn old_and_new_programs_take_turns_on_one_job() {
    let fixture = available!(fixture());
    let store = &fixture.store;
    assert!(store.create(&[due(1)]).await.iter().all(is_new));

    // The old one claims and dies; nobody holds the job, so it is claimed as any other.
    fixture.run(OLD_CLAIM).await;
    fixture.expire_leases().await;
    let jobs = store.claim(1, LEASE).await.unwrap();
    assert_eq!((jobs[0].attempt, jobs[0].attempt_in_round()), (2, 2));

    // This one dies, the old one claims and has it retried: the first token stays stale, and the
    // job is taken for abandoned, which forgives an attempt.
    fixture.expire_leases().await;
    fixture.run(OLD_CLAIM).await;
    let token = jobs[0].token();
    let extended = store.extend(&[token], LEASE).await.unwrap();
    assert_eq!(extended, [Extended::Stale]);
    fixture.run(OLD_RETRY).await;
    let job = store.claim_abandoned(LEASE).await.unwrap().unwrap();
    assert_eq!((job.attempt, job.attempt_in_round()), (4, 3));

    // The old one buries and redrives it while this one believes to hold it.
    fixture.run(OLD_BURY).await;
    fixture.run(OLD_REDRIVE).await;
    let extended = store.extend(&[job.token()], LEASE).await.unwrap();
    assert_eq!(extended, [Extended::Stale]);
    let job = store.claim_abandoned(LEASE).await.unwrap().unwrap();
    assert_eq!((job.attempt, job.attempt_in_round()), (5, 1));
    let done = Completion {
        took: None,
        token: job.token(),
        verdict: Verdict::Processed,
        trace_parent: None,
    };
    let done = store.complete(&[done]).await;
    assert!(matches!(done[..], [Ok(Completed::Applied(Some(_)))]));
}
