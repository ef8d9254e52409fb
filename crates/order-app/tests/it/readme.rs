//! The README's examples, run as they are written: only host and port are replaced, so that
//! the test does not depend on free default ports.

use std::{net::SocketAddr, path::Path, process::Command};

use crate::support::{Engine, Shape, System, database, run};

/// The shell lines between `<!-- NAME -->` and the end of the code block that follows.
fn example(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("README.md");
    let (_, rest) = readme
        .split_once(&format!("<!-- example: {name} -->\n```sh\n"))
        .unwrap_or_else(|| panic!("README.md has no example {name}"));
    let (code, _) = rest.split_once("```").expect("the end of the block");
    code.to_owned()
}

/// Runs shell lines against the system and returns what they print.
fn shell(code: &str, http: SocketAddr, ws: SocketAddr) -> String {
    let code = code.replace("localhost:8080", &http.to_string()).replace(
        "watch.py \"$ORDER_ID\"",
        &format!("watch.py \"$ORDER_ID\" {ws}"),
    );
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &code])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .output()
        .expect("bash runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{code}\n{stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_examples_of_the_readme_work() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &[]).await;
        let code = example("post") + &example("get") + &example("watch");
        let (http, ws) = (
            system.http_addr(),
            system.service.addrs.ws.expect("a WebSocket"),
        );
        let printed = tokio::task::spawn_blocking(move || shell(&code, http, ws));
        let printed = printed.await.expect("no panic");
        for expected in [
            "HTTP/1.1 201 Created",
            r#""amount":100,"#,
            r#""status":"PROCESSED"}"#,
        ] {
            assert!(
                printed.contains(expected),
                "{expected} is not in\n{printed}"
            );
        }
        system.stop().await;
    });
}
