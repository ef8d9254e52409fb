//! What pages get while they are open.

use std::{sync::atomic::Ordering, time::Duration};

use axum::body::Body;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::{
    fake::{Content, MOVING, id},
    support::{PATIENCE, Scene, get},
};

/// The fragments that a page gets next, by their regions.
async fn next(body: &mut Body) -> Vec<(String, String)> {
    loop {
        let frame = timeout(PATIENCE, body.frame()).await.expect("in time");
        let data = frame.expect("not the end").expect("a body").into_data();
        let text = String::from_utf8(data.expect("data").to_vec()).expect("text");
        let events = text.split("\n\n").filter_map(|event| {
            let (name, data) = event.strip_prefix("event: ")?.split_once("\ndata: ")?;
            Some((name.to_owned(), data.replace("\ndata: ", "\n")))
        });
        let events: Vec<_> = events.collect();
        if !events.is_empty() {
            return events;
        }
    }
}

fn names(fragments: &[(String, String)]) -> Vec<&str> {
    fragments.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn page_gets_what_has_changed() {
    let scene = Scene::new(Content::Ordinary);
    let page = scene.get("/console/").await.text;
    assert!(
        page.contains("data-live=\"/console/live?page=overview\""),
        "{page}"
    );
    let mut body = scene
        .open(get("/console/live?page=overview"))
        .await
        .into_body();
    let first = next(&mut body).await;
    assert_eq!(
        names(&first),
        ["verdict", "reading", "figures", "charts", "failures"]
    );
    for (name, _) in &first {
        assert!(
            page.contains(&format!("id=\"{name}\" data-region")),
            "{name}"
        );
    }
    let second = next(&mut body).await;
    assert!(names(&second).contains(&"figures"), "{second:?}");
    assert!(!names(&second).contains(&"failures"), "{second:?}");
    scene.system.set(Content::Unreachable);
    let third = next(&mut body).await;
    assert_eq!(names(&third), ["reading"]);
    assert!(
        third[0].1.contains("the order store is unavailable"),
        "{third:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn many_pages_read_the_system_once_an_interval() {
    let scene = Scene::new(Content::Ordinary);
    let mut bodies = Vec::new();
    for n in 0..20 {
        let page = ["overview", "processes", "dead-letters", "orders"][n % 4];
        let path = format!("/console/live?page={page}");
        let mut body = scene.open(get(&path)).await.into_body();
        next(&mut body).await;
        bodies.push(body);
    }
    let before = scene.system.n_reads.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let open = scene.system.n_reads.load(Ordering::Relaxed) - before;
    assert!((29..=31).contains(&open), "{open} readings in a minute");
    drop(bodies);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = scene.system.n_reads.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let closed = scene.system.n_reads.load(Ordering::Relaxed) - before;
    assert!((5..=7).contains(&closed), "{closed} readings in a minute");
}

#[tokio::test(start_paused = true)]
async fn order_is_followed_and_read_at_most_once_a_second() {
    let scene = Scene::new(Content::Ordinary);
    let path = format!("/console/live?page=order&order_id={}", id(MOVING));
    let mut body = scene.open(get(&path)).await.into_body();
    let first = next(&mut body).await;
    assert_eq!(
        names(&first),
        ["verdict", "reading", "order", "timeline", "actions"]
    );
    assert!(first[2].1.contains("PENDING"), "{first:?}");
    scene.system.moved.send_replace(2);
    let seen = async {
        loop {
            let fragments = next(&mut body).await;
            if fragments
                .iter()
                .any(|(name, text)| name == "order" && text.contains("PROCESSED"))
            {
                return fragments;
            }
        }
    };
    let fragments = timeout(Duration::from_secs(3), seen)
        .await
        .expect("in time");
    let actions = fragments
        .iter()
        .find(|(name, _)| name == "actions")
        .expect("its buttons");
    assert_eq!(actions.1, "", "a processed order has no buttons");
    let before = scene.system.n_records.load(Ordering::Relaxed);
    let busy = async {
        for version in 3.. {
            scene.system.moved.send_replace(version);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reading = async {
        loop {
            next(&mut body).await;
        }
    };
    let both = timeout(Duration::from_mins(1), async {
        tokio::join!(busy, reading)
    });
    assert!(both.await.is_err());
    let n_records = scene.system.n_records.load(Ordering::Relaxed) - before;
    assert!(
        (20..=61).contains(&n_records),
        "{n_records} reads in a minute"
    );
}

#[tokio::test(start_paused = true)]
async fn one_page_too_many_is_refused_and_works_without() {
    let scene = Scene::new(Content::Ordinary);
    let mut bodies = Vec::new();
    for _ in 0..32 {
        let answer = scene.open(get("/console/live?page=overview")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        bodies.push(answer.into_body());
    }
    // As a browser asks for a stream.
    let mut one_more = get("/console/live?page=overview");
    let accept = "text/event-stream".parse().expect("a value");
    one_more.headers_mut().insert("accept", accept);
    let refused = scene.send(one_more).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(scene.get("/console/").await.status, StatusCode::OK);
    bodies.pop();
    let answer = scene.open(get("/console/live?page=overview")).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn stream_says_when_to_come_back_and_ends_with_the_process() {
    let scene = Scene::new(Content::Ordinary);
    let mut body = scene
        .open(get("/console/live?page=processes"))
        .await
        .into_body();
    let opening = body.frame().await.expect("a frame").expect("a body");
    let opening = opening.into_data().expect("data");
    assert!(opening.starts_with(b"retry: "), "{opening:?}");
    next(&mut body).await;
    scene.stop.cancel();
    let rest = timeout(PATIENCE, body.collect()).await.expect("an end");
    rest.expect("a body");
    let refused = scene.get("/console/live?page=processes").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn stream_of_no_page_is_refused() {
    let scene = Scene::new(Content::Ordinary);
    for (query, status) in [
        ("", 404),
        ("page=nothing", 404),
        ("page=order&order_id=7", 400),
        ("page=orders&status=NO", 400),
    ] {
        let answer = scene.get(&format!("/console/live?{query}")).await;
        assert_eq!(answer.status.as_u16(), status, "{query}");
    }
}
