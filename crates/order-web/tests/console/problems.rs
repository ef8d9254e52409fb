//! Problems that arise below the handlers of the console.

use http::{Request, StatusCode};

use crate::{
    fake::Content,
    support::{Scene, get, post},
};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn with_header<B>(mut request: Request<B>, name: &'static str, value: &str) -> Request<B> {
    let value = value.parse().expect("a value");
    request.headers_mut().insert(name, value);
    request
}

#[tokio::test(start_paused = true)]
async fn browser_gets_a_page_and_a_program_the_document() {
    let scene = Scene::new(Content::Ordinary);
    let too_long = format!("user_id={}", "x".repeat(400_000));
    for (make, status, code, title) in [
        (
            (|_| get("/console/nothing")) as fn(&str) -> _,
            StatusCode::NOT_FOUND,
            "ROUTE_NOT_FOUND",
            "The path does not exist",
        ),
        (
            |_| post("/console/", ""),
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "The method is not allowed here",
        ),
        (
            |form| post("/console/orders", form),
            StatusCode::PAYLOAD_TOO_LARGE,
            "BODY_TOO_LARGE",
            "The body is too large",
        ),
        (
            |_| with_header(get("/console/"), "host", "evil.example"),
            StatusCode::MISDIRECTED_REQUEST,
            "HOST_NOT_ALLOWED",
            "The host is not allowed",
        ),
    ] {
        let page = scene
            .send(with_header(make(&too_long), "accept", BROWSER))
            .await;
        assert_eq!(page.status, status);
        assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
        assert!(page.headers.contains_key("content-security-policy"));
        for text in [
            &format!("<h1>{title}</h1>"),
            "<nav aria-label=\"Pages\">",
            "Request <code>",
        ] {
            assert!(page.text.contains(text), "{text}: {}", page.text);
        }
        // A page of others may have made the browser ask, and then reads the answer.
        assert!(!page.text.contains("State of the system"), "{}", page.text);

        for accept in ["*/*", "application/json", "text/event-stream"] {
            let answer = scene
                .send(with_header(make(&too_long), "accept", accept))
                .await;
            assert_eq!(answer.status, status);
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            assert!(answer.text.contains(code), "{}", answer.text);
        }
    }
    let allowed = scene
        .send(with_header(post("/console/", ""), "accept", BROWSER))
        .await;
    assert_eq!(allowed.headers["allow"], "GET,HEAD");
}
