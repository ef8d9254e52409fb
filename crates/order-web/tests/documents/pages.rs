//! The pages: what they hold, and what a browser is told about them.

use std::{fmt::Write as _, fs, path::Path};

use http::{Request, StatusCode};

use crate::support::{get, get_json, header, send, text};

#[tokio::test]
async fn document_is_not_sent_to_a_client_that_has_it() {
    for path in ["/openapi.json", "/asyncapi.json", "/docs/swagger-ui.css"] {
        let response = get(path).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "cache-control"), "no-cache");
        let etag = header(&response, "etag").to_owned();
        for tags in [etag.clone(), format!("\"other\", W/{etag}"), "*".to_owned()] {
            let again = send(Request::get(path).header("if-none-match", tags)).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
            assert_eq!(header(&again, "etag"), etag);
            assert_eq!(text(again).await, "");
        }
        let other = send(Request::get(path).header("if-none-match", "\"other\"")).await;
        assert_eq!(other.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn docs_are_a_page_that_may_load_nothing_from_elsewhere() {
    let redirect = get("/docs").await;
    assert_eq!(redirect.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(header(&redirect, "location"), "docs/");

    let page = get("/docs/").await;
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(header(&page, "content-type"), "text/html");
    assert_eq!(header(&page, "x-content-type-options"), "nosniff");
    let policy = header(&page, "content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
    assert!(!policy.contains("http"), "{policy}");

    let start = text(get("/docs/swagger-initializer.js").await).await;
    assert!(start.contains("\"../openapi.json\""), "{start}");
    assert!(start.contains("\"validatorUrl\": \"none\""), "{start}");
    assert!(!start.contains("{{config}}"), "{start}");

    let missing = get("/docs/swagger-ui.js.map").await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(&missing, "content-type"), "application/problem+json");
}

#[tokio::test]
async fn problem_is_a_page_for_people_and_json_for_programs() {
    let kind = get_json("/problems/order-not-found").await;
    insta::assert_json_snapshot!(kind, @r#"
    {
      "advice": "Check the id. An order that was acknowledged is never removed.",
      "code": "ORDER_NOT_FOUND",
      "grpc": "NOT_FOUND",
      "retryable": false,
      "status": 404,
      "title": "The order does not exist",
      "type": "/problems/order-not-found"
    }
    "#);

    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for accept in [browser, "*/*"] {
        let request = Request::get("/problems/invalid-argument").header("accept", accept);
        let page = send(request).await;
        assert_eq!(header(&page, "content-type"), "text/html; charset=utf-8");
        assert_eq!(header(&page, "vary"), "Accept");
        let policy = header(&page, "content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        let page = text(page).await;
        assert!(page.contains("<h1>The request is not valid</h1>"), "{page}");
        assert!(page.contains("<code>errors</code>"), "{page}");
    }

    let unknown = get("/problems/no-such-thing").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(&unknown, "content-type"), "application/problem+json");
    let refused = send(Request::get("/problems").header("accept", "image/png")).await;
    assert_eq!(refused.status(), StatusCode::NOT_ACCEPTABLE);
}

#[tokio::test]
async fn list_of_problems_leads_to_all_their_pages() {
    let page = text(get("/problems").await).await;
    let kinds = get_json("/problems").await;
    for kind in kinds["problems"].as_array().expect("problems") {
        let address = kind["type"].as_str().expect("an address");
        assert!(
            page.contains(&format!("href=\"{}\"", &address[1..])),
            "{address}"
        );
        assert_eq!(&get_json(address).await, kind);
    }
}

/// The tables of docs/errors.md, by the name in the comment before them.
async fn tables() -> [(&'static str, String); 2] {
    let kinds = get_json("/problems").await;
    let mut reasons =
        String::from("| code | gRPC | HTTP | what it means and what to do |\n|---|---|---|---|\n");
    let mut protocol =
        String::from("| code | HTTP | what it means and what to do |\n|---|---|---|\n");
    for kind in kinds["problems"].as_array().expect("problems") {
        let text = |name: &str| kind[name].as_str().expect("text");
        let (code, status) = (text("code"), &kind["status"]);
        let advice = format!("{}. {}", text("title"), text("advice"));
        if kind["grpc"].is_string() {
            let grpc = text("grpc");
            writeln!(reasons, "| `{code}` | {grpc} | {status} | {advice} |").expect("a string");
        } else {
            writeln!(protocol, "| `{code}` | {status} | {advice} |").expect("a string");
        }
    }
    [("reasons", reasons), ("protocol", protocol)]
}

/// Puts each table between its comments.
fn render(page: &str, tables: &[(&str, String)]) -> String {
    let mut page = page.to_owned();
    for (name, table) in tables {
        let (begin, end) = (format!("<!-- table: {name} -->\n"), "<!-- end -->\n");
        let (before, rest) = page.split_once(&begin).expect("a comment before the table");
        let (_, after) = rest.split_once(end).expect("a comment after the table");
        page = format!("{before}{begin}{table}{end}{after}");
    }
    page
}

#[tokio::test]
async fn errors_page_has_the_tables_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    let page = fs::read_to_string(&path).expect("docs/errors.md exists");
    let rendered = render(&page, &tables().await);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &rendered).expect("docs can be written");
        return;
    }
    assert_eq!(
        page, rendered,
        "run this test with UPDATE_DOCS=1 and read the difference"
    );
}
