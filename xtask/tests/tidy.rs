//! The rules of the repository that no compiler or linter knows.
//!
//! Each failure names the place and the rule. A rule that is wrong is changed here, for
//! everybody; there are no exceptions for single places.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A longer file holds more than one thing.
const FILE_LINES_MAX: usize = 500;

/// A longer function cannot be read in one sitting. Counted from its `fn` to its brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Names that say nothing about what is inside.
const MODULES_REFUSED: &[&str] = &["common", "util", "utils", "helpers", "misc"];

/// What a crate may use of the others.
const EDGES: &[(&str, &[&str])] = &[
    ("order-core", &[]),
    ("order-adapters", &["order-core"]),
    ("order-hub", &["order-core"]),
    ("order-edge", &["order-core"]),
    ("order-rpc", &["order-core", "order-edge"]),
    ("order-worker", &["order-core"]),
    ("order-web", &["order-core", "order-edge", "order-hub"]),
    ("order-testkit", &["order-core"]),
    (
        "order-app",
        &[
            "order-adapters",
            "order-core",
            "order-edge",
            "order-hub",
            "order-rpc",
            "order-web",
            "order-worker",
        ],
    ),
    ("xtask", &["order-testkit"]),
];

/// Crates whose tests may use `order-testkit`.
const TESTED_WITH_TESTKIT: &[&str] = &[
    "order-adapters",
    "order-app",
    "order-edge",
    "order-hub",
    "order-rpc",
    "order-web",
    "order-worker",
];

/// What the core must not know: transports, databases, formats.
const CORE_REFUSES: &[&str] = &[
    "axum",
    "deadpool-postgres",
    "hyper",
    "rdkafka",
    "redis",
    "reqwest",
    "rusqlite",
    "serde",
    "serde_json",
    "tokio-postgres",
    "tonic",
];

/// The parts of tokio that do no input or output.
const CORE_TOKIO_FEATURES: &[&str] = &["macros", "rt", "sync"];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask is inside the workspace").into()
}

/// Every file of the repository with this extension, by its path from the root.
fn files(extension: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && name != "node_modules" && name != ".git" {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap();
                found.insert(path.to_str().unwrap().to_owned(), text);
            }
        }
    }
    assert!(!found.is_empty(), "no file ends in .{extension}");
    found
}

fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

/// Lines with their numbers, which begin at 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

#[test]
fn crates_depend_only_where_the_design_says() {
    let mut broken = Vec::new();
    let packages = packages();
    let names: BTreeSet<&str> = packages
        .iter()
        .map(|package| text(package, "name"))
        .collect();
    let known: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names, known,
        "the table of edges does not have the crates of the workspace"
    );

    for package in &packages {
        let name = text(package, "name");
        let (_, allowed) = EDGES.iter().find(|(known, _)| *known == name).unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = text(dependency, "name");
            let is_for_tests = dependency["kind"] == "dev";
            if !names.contains(on)
                || allowed.contains(&on)
                || (is_for_tests && on == "order-testkit" && TESTED_WITH_TESTKIT.contains(&name))
            {
                continue;
            }
            let place = manifest_place(package, on);
            broken.push(format!("{place}: {name} must not depend on {on}"));
        }
    }
    assert_none(&broken);
}

#[test]
fn core_knows_no_input_and_no_output() {
    let packages = packages();
    let core = packages
        .iter()
        .find(|package| text(package, "name") == "order-core")
        .unwrap();
    let mut broken = Vec::new();
    for dependency in core["dependencies"].as_array().unwrap() {
        if dependency["kind"] == "dev" {
            continue;
        }
        let on = text(dependency, "name");
        let place = manifest_place(core, on);
        if CORE_REFUSES.contains(&on) {
            broken.push(format!("{place}: order-core must not depend on {on}"));
        }
        if on == "tokio" {
            for feature in dependency["features"].as_array().unwrap() {
                let feature = feature.as_str().unwrap();
                if !CORE_TOKIO_FEATURES.contains(&feature) {
                    broken.push(format!(
                        "{place}: order-core must not use {feature} of tokio"
                    ));
                }
            }
        }
    }
    assert_none(&broken);
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

/// Where a manifest names a dependency.
fn manifest_place(package: &Value, dependency: &str) -> String {
    let path = Path::new(text(package, "manifest_path"));
    let manifest = fs::read_to_string(path).unwrap();
    let line = lines(&manifest)
        .find(|(_, line)| {
            line.strip_prefix(dependency)
                .is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
        })
        .map_or(1, |(number, _)| number);
    format!("{}:{line}", path.strip_prefix(root()).unwrap().display())
}

#[test]
fn image_build_has_every_manifest() {
    let dockerfile = fs::read_to_string(root().join("deploy/Dockerfile")).unwrap();
    let packages = packages();
    let missing = packages.iter().map(|package| {
        let manifest = Path::new(text(package, "manifest_path"));
        let folder = manifest.parent().unwrap().strip_prefix(root()).unwrap();
        let folder = folder.display();
        format!("COPY {folder}/Cargo.toml {folder}/")
    });
    let missing = missing.filter(|line| dockerfile.lines().all(|found| found != line));
    assert_none(&missing.collect::<Vec<_>>());
}

#[test]
fn files_and_functions_are_short() {
    let mut broken = Vec::new();
    for (path, source) in files("rs") {
        let count = source.lines().count();
        if count > FILE_LINES_MAX {
            broken.push(format!(
                "{path}:{count}: a file has at most {FILE_LINES_MAX} lines"
            ));
        }
        for (line, name, length) in functions(&source) {
            if length > FUNCTION_LINES_MAX {
                broken.push(format!(
                    "{path}:{line}: {name} has {length} lines, at most {FUNCTION_LINES_MAX} are allowed"
                ));
            }
        }
    }
    assert_none(&broken);
}

/// Line, name and length of every function with a body. Relies on the form that rustfmt
/// gives: the brace that closes a body is as far in as its `fn`.
fn functions(source: &str) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines(source) {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let mut in_body = false;
        for (end, line) in lines(source).skip(start - 1) {
            if in_body {
                let inner = line.trim_start();
                if inner.starts_with('}') && line.len() - inner.len() == indent {
                    found.push((start, name.to_owned(), end - start + 1));
                    break;
                }
            } else if line.ends_with('{') {
                in_body = true;
            } else if line.ends_with(';') || line.ends_with('}') {
                break;
            }
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.trim_start().split_once("fn ")?;
    let is_declaration = before.split_whitespace().all(|word| {
        word.starts_with("pub")
            || matches!(word, "async" | "const" | "unsafe" | "extern" | "default")
    });
    is_declaration.then(|| after.split(['(', '<']).next())?
}

#[test]
fn no_test_is_ignored_and_no_module_is_a_drawer() {
    let mut broken = Vec::new();
    for (path, source) in files("rs") {
        for (number, line) in lines(&source) {
            let line = line.trim_start();
            if line.starts_with("#[ignore") {
                broken.push(format!("{path}:{number}: no test is ignored"));
            }
            if let Some(module) = module_name(line)
                && MODULES_REFUSED.contains(&module)
            {
                broken.push(format!(
                    "{path}:{number}: a module named {module} says nothing"
                ));
            }
        }
    }
    assert_none(&broken);
}

fn module_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("mod ")?;
    (before.is_empty() || before.starts_with("pub"))
        .then(|| after.trim_end_matches([';', ' ', '{']))
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for (path, document) in files("md") {
        let folder = root().join(&path).parent().unwrap().to_owned();
        for (number, line) in lines(&document) {
            for target in link_targets(line) {
                let file = target.split('#').next().unwrap();
                if !file.is_empty() && !folder.join(file).exists() {
                    broken.push(format!("{path}:{number}: {target} does not exist"));
                }
            }
        }
    }
    assert_none(&broken);
}

/// The targets of the links in a line of Markdown that lead to files.
fn link_targets(line: &str) -> Vec<&str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next())
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

#[test]
fn sources_mention_only_documents_that_exist() {
    let mut broken = Vec::new();
    for extension in ["rs", "toml", "yaml", "proto", "sql"] {
        for (path, source) in files(extension) {
            for (number, line) in lines(&source) {
                for document in documents(line) {
                    if !root().join(document).exists() {
                        broken.push(format!("{path}:{number}: {document} does not exist"));
                    }
                }
            }
        }
    }
    assert_none(&broken);
}

/// The documents a line mentions by their path from the root of the repository.
fn documents(line: &str) -> Vec<&str> {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| {
            word.starts_with("docs/") && Path::new(word).extension() == Some("md".as_ref())
        })
        .collect()
}

#[test]
fn limits_name_the_tests_that_show_them() {
    let sources: String = files("rs").into_values().collect();
    let path = "docs/operations.md";
    let document = fs::read_to_string(root().join(path)).unwrap();
    let mut rows = limit_rows(&document).peekable();
    assert!(rows.peek().is_some(), "{path} has no table of limits");
    let mut broken = Vec::new();
    for (number, row) in rows {
        let tests = test_names(row);
        if tests.is_empty() {
            broken.push(format!("{path}:{number}: no test shows this limit"));
        }
        for test in tests {
            // A test, or a case that is run against every adapter.
            let is_there = |params| sources.contains(&format!("fn {test}({params})"));
            if !["", "subject: &dyn Subject"].into_iter().any(is_there) {
                broken.push(format!("{path}:{number}: no test is named {test}"));
            }
        }
    }
    assert_none(&broken);
}

/// The rows of the tables in the section on limits.
fn limit_rows(document: &str) -> impl Iterator<Item = (usize, &str)> {
    lines(document)
        .skip_while(|(_, line)| *line != "## Limits")
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "))
        .filter(|(_, line)| line.starts_with("| "))
        .filter(|(_, line)| !line.starts_with("| what |"))
}

/// The names in the last column of a row.
fn test_names(row: &str) -> Vec<&str> {
    let row = row.trim_end().trim_end_matches('|');
    let cell = row.rsplit('|').next().unwrap();
    cell.split('`').skip(1).step_by(2).collect()
}

mod the_scanner {
    use super::*;

    #[test]
    fn measures_functions_from_fn_to_brace() {
        let source = "\
impl A {
    pub(crate) async fn one(
        a: u8,
    ) -> u8 {
        match a {
            _ => 1,
        }
    }
    fn declared(&self);
}
fn two() {}
const fn three<T>() {
    let fn_text = 1;
}
// a comment about fn four() {
";
        let found = functions(source);
        assert_eq!(
            found,
            [(2, "one".to_owned(), 7), (12, "three".to_owned(), 3)]
        );
    }

    #[test]
    fn finds_limits_and_their_tests() {
        let document = "| a | `b` |\n## Limits\n\n| what | limit | shown by |\n|---|---|---|\n\
                        | c | `d` | `e`, `f` |\n| g | `h` | |\n## More\n| i |";
        let rows: Vec<_> = limit_rows(document)
            .map(|(n, row)| (n, test_names(row)))
            .collect();
        assert_eq!(rows, [(6, vec!["e", "f"]), (7, vec![])]);
    }

    #[test]
    fn finds_modules_links_and_documents() {
        assert_eq!(module_name("pub mod util;"), Some("util"));
        assert_eq!(module_name("// no mod util"), None);
        let line = "see [a](b.md#c), [d](https://e/f) and `docs/api.md`.";
        assert_eq!(link_targets(line), ["b.md#c"]);
        assert_eq!(documents(line), ["docs/api.md"]);
        assert_eq!(documents("/// See docs/api.md."), ["docs/api.md"]);
    }
}
