//! What pages show, and that they are safe to show.

use http::StatusCode;
use regex::Regex;

use crate::{
    fake::{Content, DEAD, MOVING, RETRIED, id},
    support::{Answer, Scene, get},
};

fn paths() -> Vec<String> {
    let orders = [MOVING, RETRIED, DEAD, 4].map(|n| format!("/console/orders/{}", id(n)));
    let others = [
        "/console/",
        "/console/orders",
        "/console/orders?status=FAILED&user_id=user-1",
        "/console/dead-letters",
        "/console/dead-letters?code=CARD_DECLINED",
        "/console/dead-letters/redrive?code=CARD_DECLINED&limit=10",
        "/console/processes",
    ];
    others
        .map(str::to_owned)
        .into_iter()
        .chain(orders)
        .collect()
}

/// What holds for every page, whatever it shows.
fn check_page(path: &str, answer: &Answer) {
    let text = &answer.text;
    let header = |name: &str| answer.headers[name].to_str().expect("text").to_owned();
    assert_eq!(header("content-type"), "text/html; charset=utf-8", "{path}");
    assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
    assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
    assert_eq!(header("cache-control"), "no-store", "{path}");
    assert_eq!(
        header("content-security-policy"),
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        "{path}"
    );
    let count = |pattern: &str| {
        Regex::new(pattern)
            .expect("a pattern")
            .find_iter(text)
            .count()
    };
    assert_eq!(count("<h1>"), 1, "{path}");
    assert_eq!(count("<title>[^<]+</title>"), 1, "{path}");
    assert_eq!(count("<script"), 1, "{path}: {text}");
    assert_eq!(
        count("<script src=\"/console/console.js\" defer></script>"),
        1,
        "{path}"
    );
    assert_eq!(count("<style|<[^>]* style=|<[^>]* on[a-z]+="), 0, "{path}");
    assert_eq!(count("(?:src|href|action)=\"(?:[a-z]+:|//)"), 0, "{path}");
    let ids = Regex::new(" id=\"([^\"]*)\"").expect("a pattern");
    let mut ids: Vec<_> = ids
        .captures_iter(text)
        .map(|found| found[1].to_owned())
        .collect();
    let n_ids = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), n_ids, "{path}: an id is used twice");
    for found in Regex::new("<label for=\"([^\"]*)\"")
        .expect("a pattern")
        .captures_iter(text)
    {
        assert!(ids.contains(&found[1].to_owned()), "{path}: {}", &found[1]);
    }
}

#[tokio::test(start_paused = true)]
async fn every_page_is_shown_and_loads_nothing_from_elsewhere() {
    for content in [Content::Ordinary, Content::Hostile] {
        let scene = Scene::new(content);
        for path in paths() {
            let answer = scene.get(&path).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            check_page(&path, &answer);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn text_of_others_is_shown_as_text() {
    let scene = Scene::new(Content::Hostile);
    for path in paths() {
        let text = scene.get(&path).await.text;
        for raw in [
            "<script>alert",
            "<img src=x",
            "\u{202e}",
            "\u{2066}",
            "\u{1b}",
            "&amp;amp;amp;",
        ] {
            assert!(!text.contains(raw), "{path} has {raw:?}");
        }
    }
    let order = scene
        .get(&format!("/console/orders/{}", id(DEAD)))
        .await
        .text;
    let shown = "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;\\u202eevil\\u2066\\u001b[2J'&quot;&amp;amp;&lt;img";
    assert!(order.contains(shown), "{order}");
    let hostile = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%E2%80%AE";
    for path in [
        format!("/console/orders?user_id={hostile}"),
        format!("/console/orders?order_id={hostile}"),
        format!("/console/orders?{hostile}=1"),
        format!("/console/orders/{hostile}"),
        format!("/console/dead-letters?code={hostile}"),
        format!("/console/dead-letters/redrive?rate={hostile}"),
        format!("/console/?done={hostile}"),
    ] {
        let answer = scene.get(&path).await;
        check_page(&path, &answer);
        assert!(!answer.text.contains("alert(1)</script>"), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn flight_recorder_has_everything_in_order() {
    let scene = Scene::new(Content::Ordinary);
    let answer = scene.get(&format!("/console/orders/{}", id(RETRIED))).await;
    let main = answer
        .text
        .split_once("<h1>")
        .map(|(_, main)| main)
        .expect("a main part");
    let main = main.split("</main>").next().expect("its end");
    let text = Regex::new("<[^>]*>")
        .expect("a pattern")
        .replace_all(main, "\n");
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn system_without_anything_has_pages() {
    let scene = Scene::new(Content::Nothing);
    for (path, text) in [
        ("/console/", "Nothing is wrong."),
        ("/console/", "No order has failed"),
        ("/console/orders", "No order matches."),
        ("/console/dead-letters", "No order is FAILED."),
        ("/console/processes", "No process reports."),
    ] {
        let answer = scene.get(path).await;
        check_page(path, &answer);
        assert!(answer.text.contains(text), "{path}: {}", answer.text);
    }
}

#[tokio::test(start_paused = true)]
async fn outage_is_told_on_every_page_and_the_old_figures_stay() {
    let scene = Scene::new(Content::Ordinary);
    assert!(scene.get("/console/").await.text.contains("Read at"));
    scene.system.set(Content::Unreachable);
    tokio::time::advance(std::time::Duration::from_secs(11)).await;
    let answer = scene.get("/console/").await;
    assert_eq!(answer.status, StatusCode::OK);
    let stale = Regex::new("The figures are 1[0-9] s old: the order store is unavailable\\.")
        .expect("a pattern");
    assert!(stale.is_match(&answer.text), "{}", answer.text);
    assert!(answer.text.contains("Workers busy"), "the figures are gone");
    let orders = scene.get("/console/orders").await;
    assert_eq!(orders.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(orders.headers["retry-after"], "1");
    check_page("/console/orders", &orders);
    assert!(!orders.text.contains("a secret"), "{}", orders.text);
}

#[tokio::test(start_paused = true)]
async fn outage_from_the_beginning_leaves_no_page_empty() {
    let scene = Scene::new(Content::Unreachable);
    let answer = scene.get("/console/").await;
    assert!(
        answer
            .text
            .contains("There are no figures: the order store is unavailable.")
    );
    assert!(answer.text.contains("The system has not been read yet."));
}

#[tokio::test(start_paused = true)]
async fn wrong_filters_and_unknown_orders_are_told_in_words() {
    let scene = Scene::new(Content::Ordinary);
    for (path, status, text) in [
        (
            "/console/orders?created_after=yesterday",
            400,
            "must be a time like",
        ),
        (
            "/console/orders?status=NO",
            400,
            "status: must be one of PENDING",
        ),
        ("/console/orders?order_id=7", 400, "must be a UUID like"),
        (
            "/console/orders?colour=red",
            400,
            "colour: unknown query parameter",
        ),
        (
            "/console/orders?page_token=forged",
            400,
            "is not a token of this service",
        ),
        ("/console/orders/7", 400, "must be a UUID like"),
        (
            "/console/orders/0198c5a0-5d5c-7abc-8def-00000000ffff",
            404,
            "does not exist",
        ),
        (
            "/console/dead-letters?colour=red",
            400,
            "unknown query parameter",
        ),
        (
            "/console/dead-letters/redrive?rate=fast",
            400,
            "must be a whole number",
        ),
        (
            "/console/dead-letters/redrive?rate=0&limit=0",
            400,
            "must be 1 to 1000000",
        ),
    ] {
        let answer = scene.get(path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert!(answer.text.contains(text), "{path}: {}", answer.text);
        check_page(path, &answer);
    }
    let answer = scene.get("/console/nothing").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn order_is_found_by_its_id_and_pages_lead_on() {
    let scene = Scene::new(Content::Ordinary);
    let answer = scene
        .get(&format!("/console/orders?order_id=+{}&user_id=", id(DEAD)))
        .await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(
        answer.headers["location"],
        format!("/console/orders/{}", id(DEAD)).as_str()
    );
    let answer = scene
        .get("/console/orders?status=FAILED&created_after=2020-01-01+00%3A00")
        .await;
    let next = "status=FAILED&amp;created_after=2020-01-01T00%3A00%3A00.000000Z&amp;page_size=50&amp;page_token=t0k3n";
    assert!(answer.text.contains(next), "{}", answer.text);
    let next = format!("/console/orders?{}", next.replace("&amp;", "&"));
    let answer = scene.get(&next).await;
    assert_eq!(answer.status, StatusCode::OK);
    // Only the first page changes while it is open.
    assert!(!answer.text.contains("data-live"), "{}", answer.text);
}

#[tokio::test(start_paused = true)]
async fn files_are_asked_about_before_each_use() {
    let scene = Scene::new(Content::Ordinary);
    for (path, kind) in [
        ("/console/console.css", "text/css; charset=utf-8"),
        ("/console/console.js", "text/javascript; charset=utf-8"),
        ("/console/icon.svg", "image/svg+xml"),
    ] {
        let answer = scene.get(path).await;
        assert_eq!(answer.headers["content-type"], kind);
        let mut again = get(path);
        let etag = answer.headers["etag"].clone();
        again.headers_mut().insert("if-none-match", etag);
        assert_eq!(
            scene.send(again).await.status,
            StatusCode::NOT_MODIFIED,
            "{path}"
        );
    }
    assert_eq!(scene.get("/console").await.headers["location"], "/console/");
}
