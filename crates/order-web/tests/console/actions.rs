//! What operators change.

use std::sync::Arc;

use http::StatusCode;
use http_body_util::BodyExt as _;
use regex::Regex;

use crate::{
    fake::{Content, DEAD, MOVING, RETRIED, id},
    support::{Scene, post},
};

/// The key of the form on a page.
fn key_of(page: &str) -> String {
    let key = Regex::new("name=\"idempotency_key\" value=\"([^\"]+)\"").expect("a pattern");
    key.captures(page).expect("a form has a key")[1].to_owned()
}

#[tokio::test(start_paused = true)]
async fn form_that_is_sent_twice_creates_one_order() {
    let scene = Scene::new(Content::Ordinary);
    let page = scene.get("/console/orders").await.text;
    let form = format!(
        "idempotency_key={}&user_id=ann&amount=99.95&currency=EUR&external_id=",
        key_of(&page)
    );
    let first = scene.post("/console/orders", &form).await;
    let second = scene.post("/console/orders", &form).await;
    for answer in [&first, &second] {
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    }
    assert_eq!(first.headers["location"], second.headers["location"]);
    assert_eq!(scene.system.created.lock().expect("no panic").len(), 1);
    let location = first.headers["location"].to_str().expect("text");
    let shown = scene.get(location).await;
    assert!(
        shown.text.contains("The order was created."),
        "{}",
        shown.text
    );
    let other = scene.get("/console/orders").await.text;
    assert_ne!(key_of(&other), key_of(&page));
}

#[tokio::test(start_paused = true)]
async fn form_that_is_wrong_comes_back_with_the_rules_beside_its_fields() {
    let scene = Scene::new(Content::Ordinary);
    let answer = scene
        .post(
            "/console/orders",
            "idempotency_key=k1&user_id=ann&amount=1.005&currency=usd",
        )
        .await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    for text in [
        "value=\"ann\"",
        "value=\"k1\"",
        "value=\"1.005\"",
        "aria-describedby=\"create-currency-error\"",
        "id=\"create-currency-error\">must be an ISO 4217 code like USD",
    ] {
        assert!(answer.text.contains(text), "{text}: {}", answer.text);
    }
    for (form, text) in [
        (
            "idempotency_key=k&user_id=ann",
            "amount-error\">is required",
        ),
        ("idempotency_key=k&colour=red", "colour: unknown"),
        (
            "idempotency_key=k&user_id=a&user_id=b",
            "user_id: is given twice",
        ),
        (
            "idempotency_key=k&user_id=%FF",
            "must be percent-encoded UTF-8",
        ),
    ] {
        let answer = scene.post("/console/orders", form).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{form}");
        assert!(answer.text.contains(text), "{form}: {}", answer.text);
    }
    let mut json = post("/console/orders", "{}");
    json.headers_mut()
        .insert("content-type", "application/json".parse().expect("a value"));
    assert_eq!(scene.send(json).await.status, StatusCode::BAD_REQUEST);
    let long = format!("user_id={}", "x".repeat(400_000));
    assert_eq!(
        scene.post("/console/orders", &long).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert!(scene.system.created.lock().expect("no panic").is_empty());
}

#[tokio::test(start_paused = true)]
async fn form_takes_metadata_line_by_line() {
    let scene = Scene::new(Content::Ordinary);
    let send = async |metadata: &str| {
        let metadata: String = form_urlencoded::byte_serialize(metadata.as_bytes()).collect();
        let form = format!("idempotency_key=k&user_id=ann&amount=1&metadata={metadata}");
        scene.post("/console/orders", &form).await
    };
    let answer = send("channel=web\r\n\r\nnote=a=b, c \r\nempty=\r\n").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    let created = scene.system.created.lock().expect("no panic")["k"]
        .1
        .clone();
    let entries: Vec<_> = created.iter().collect();
    assert_eq!(
        entries,
        [("channel", "web"), ("empty", ""), ("note", "a=b, c ")]
    );

    // As much as an order can have.
    let line = |n: usize| format!("{n:\u{10ffff}>40}={}\r\n", "\u{10ffff}".repeat(500));
    let most: String = (0..50).map(line).collect();
    assert_eq!(send(&most).await.status, StatusCode::SEE_OTHER);

    let typed = "<b>\r\n=1\r\nlong=".to_owned() + &"x".repeat(501) + "\r\na=1\r\na=2";
    let answer = send(&typed).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let shown = typed.replace('<', "&lt;").replace('>', "&gt;");
    for text in [
        shown.as_str(),
        "aria-describedby=\"create-metadata-error\"",
        "line 1 must be key=value",
        "a: is given twice",
        "the name must not be empty",
        "long: the value must have at most 500 characters",
    ] {
        assert!(answer.text.contains(text), "{text}: {}", answer.text);
    }
    let answer = send(&(0..51).map(line).collect::<String>()).await;
    assert!(
        answer.text.contains("must have at most 50 entries"),
        "{}",
        answer.text
    );
}

#[tokio::test(start_paused = true)]
async fn change_is_about_the_version_that_was_shown() {
    let scene = Scene::new(Content::Ordinary);
    let path = |n, action: &str| format!("/console/orders/{}/{action}", id(n));
    let moving = scene
        .get(&format!("/console/orders/{}", id(MOVING)))
        .await
        .text;
    assert!(moving.contains("name=\"version\" value=\"1\""), "{moving}");
    for (path, form, status, text) in [
        (path(MOVING, "cancel"), "version=1&reason=too+late", 303, ""),
        (
            path(MOVING, "cancel"),
            "version=7",
            412,
            "which the precondition excludes",
        ),
        (path(MOVING, "cancel"), "", 400, "version: is required"),
        (
            path(MOVING, "cancel"),
            "version=one",
            400,
            "must be a whole number",
        ),
        (
            path(MOVING, "cancel"),
            "version=1&reason=%07",
            400,
            "must not contain control characters",
        ),
        (
            path(RETRIED, "cancel"),
            "version=2",
            409,
            "can no longer be cancelled",
        ),
        (path(DEAD, "retry"), "version=3", 303, ""),
        (
            path(DEAD, "retry"),
            "version=2",
            412,
            "which the precondition excludes",
        ),
        (path(0xffff, "retry"), "version=1", 404, "does not exist"),
    ] {
        let answer = scene.post(&path, form).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{path} {form}: {}",
            answer.text
        );
        assert!(answer.text.contains(text), "{path} {form}: {}", answer.text);
        // The page has the order as it is now, so that the operator can decide again.
        let is_known = status != 404 && status != 303;
        assert_eq!(answer.text.contains("Timeline"), is_known, "{path} {form}");
    }
}

#[tokio::test(start_paused = true)]
async fn processing_is_paused_and_the_next_page_says_so() {
    let scene = Scene::new(Content::Ordinary);
    assert!(
        scene
            .get("/console/processes")
            .await
            .text
            .contains("Processes claim jobs.")
    );
    let answer = scene.post("/console/processes", "action=pause").await;
    assert_eq!(answer.headers["location"], "/console/processes?done=paused");
    let page = scene.get("/console/processes?done=paused").await.text;
    assert!(page.contains("Processing is paused."), "{page}");
    assert!(
        page.contains("Processes follow within a few seconds."),
        "{page}"
    );
    let one = scene
        .post(
            "/console/processes",
            "process_id=000000000000ab03&action=resume",
        )
        .await;
    assert_eq!(one.status, StatusCode::SEE_OTHER);
    for form in [
        "action=stop",
        "process_id=7&action=pause",
        "process_id=00000000deadbeef&action=pause",
        "",
    ] {
        let answer = scene.post("/console/processes", form).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{form}");
    }
}

#[tokio::test(start_paused = true)]
async fn redrive_is_counted_confirmed_and_followed_to_its_end() {
    let scene = Scene::new(Content::Ordinary);
    let form = "code=TIMEOUT&limit=40&rate=10&failed_percent_max=20";
    let page = scene
        .get(&format!("/console/dead-letters/redrive?{form}"))
        .await
        .text;
    assert!(
        page.contains("At least 40 orders would be redriven."),
        "{page}"
    );
    for field in form.split('&') {
        let (name, value) = field.split_once('=').expect("a field");
        assert!(
            page.contains(&format!(
                "type=\"hidden\" name=\"{name}\" value=\"{value}\""
            )),
            "{field}"
        );
    }
    let run = |form: &str| {
        let mut request = post("/console/dead-letters/redrive", form);
        let accept = "text/event-stream".parse().expect("a value");
        request.headers_mut().insert("accept", accept);
        request
    };
    let answer = scene.send(run(form)).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let frames: Vec<_> = answer.text.split("\n\n").collect();
    assert!(
        frames[1].starts_with("event: progress\ndata: "),
        "{:?}",
        frames[1]
    );
    assert!(frames[1].contains("The redrive is running."));
    assert!(answer.text.contains("The redrive is done"));
    assert!(
        answer.text.ends_with("event: end\ndata: \n\n"),
        "{}",
        answer.text
    );

    let refused = scene.send(run("limit=0")).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let mut without_script = post("/console/dead-letters/redrive", form);
    let accept = "text/html".parse().expect("a value");
    without_script.headers_mut().insert("accept", accept);
    assert_eq!(
        scene.send(without_script).await.status,
        StatusCode::NOT_ACCEPTABLE
    );
}

#[tokio::test(start_paused = true)]
async fn redrive_ends_with_its_page() {
    let scene = Scene::new(Content::Ordinary);
    let mut request = post("/console/dead-letters/redrive", "limit=1000");
    let accept = "text/event-stream".parse().expect("a value");
    request.headers_mut().insert("accept", accept);
    let mut body = scene.open(request).await.into_body();
    for _ in 0..3 {
        body.frame().await.expect("a frame").expect("a body");
    }
    assert_eq!(Arc::strong_count(&scene.system.redrives), 2);
    drop(body);
    assert_eq!(Arc::strong_count(&scene.system.redrives), 1);
}
