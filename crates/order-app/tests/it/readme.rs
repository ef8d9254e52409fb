//! The examples of the README and the API tour, run as they are written: only host and port
//! are replaced, so that the test does not depend on free default ports, and programs are the
//! ones that were built for the test.

use std::{path::Path, process::Command};

use crate::support::{Engine, Shape, System, database, run};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).expect("a page")
}

/// Printed between two blocks.
const END: &str = "--- end of block ---";

/// The shell lines between `<!-- NAME -->` and the end of the code block that follows.
fn example(readme: &str, name: &str) -> String {
    let (_, rest) = readme
        .split_once(&format!("<!-- example: {name} -->\n```sh\n"))
        .unwrap_or_else(|| panic!("README.md has no example {name}"));
    let (code, _) = rest.split_once("```").expect("the end of the block");
    code.to_owned()
}

/// The shell blocks of a page, each with what the comment behind it says it prints.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let blocks = page.split("```sh\n").skip(1).map(|rest| {
        let (code, rest) = rest.split_once("```\n").expect("the end of the block");
        let printed = rest
            .strip_prefix("<!-- prints: ")
            .and_then(|rest| rest.split_once(" -->"))
            .unwrap_or_else(|| panic!("nothing says what this prints:\n{code}"));
        (code, printed.0)
    });
    blocks.collect()
}

/// Runs shell lines against the system and returns what they print.
async fn shell(code: &str, system: &System) -> String {
    let addrs = system.service.addrs;
    let http = system.http_addr().to_string();
    let ws = addrs.ws.expect("a WebSocket").to_string();
    let code = code
        .replace("localhost:8080", &http)
        .replace(
            "cargo run --quiet --release --bin orderctl --",
            env!("CARGO_BIN_EXE_orderctl"),
        )
        .lines()
        .map(|line| {
            if line.starts_with("python3 examples/watch.py ") {
                format!("{line} {ws}\n")
            } else {
                format!("{line}\n")
            }
        })
        .collect::<String>();
    let service = format!("http://{}", addrs.grpc.expect("gRPC"));
    let run = move || {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &code])
            .env("ORDER_SERVICE_URL", service)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .output()
            .expect("bash runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{code}\n{stderr}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    tokio::task::spawn_blocking(run).await.expect("no panic")
}

#[test]
fn the_examples_of_the_readme_work() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &[]).await;
        let readme = read("README.md");
        let code: String = ["post", "get", "watch"]
            .map(|name| example(&readme, name))
            .concat();
        let printed = shell(&code, &system).await;
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

#[test]
fn the_tour_of_the_api_works() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &[]).await;
        let page = read("docs/api.md");
        let blocks = blocks(&page);
        // One shell for all, because later blocks use what earlier ones have set.
        let codes: Vec<&str> = blocks.iter().map(|(code, _)| *code).collect();
        let code = codes.join(&format!("echo; echo '{END}'\n"));
        let printed = shell(&code, &system).await;
        let printed: Vec<&str> = printed.split(END).collect();
        assert_eq!(printed.len(), blocks.len());
        for ((code, expected), printed) in blocks.iter().zip(printed) {
            assert!(
                printed.contains(expected),
                "{code}\nshould print {expected}, but printed\n{printed}"
            );
        }
        system.stop().await;
    });
}
