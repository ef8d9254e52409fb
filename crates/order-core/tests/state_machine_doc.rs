//! Keeps `docs/state-machine.md` equal to the table in the code.
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{fmt::Write as _, fs, path::Path};

use order_core::{JobEffect, OrderStatus, TRANSITIONS};

const INTRO: &str = "# The state machine of an order

Rendered from `TRANSITIONS` in `crates/order-core/src/status.rs` by the test
`state_machine_doc`; run it with `UPDATE_DOCS=1` after a change of the table.

Every move is one transaction: the order's row, one event with the next version, and what
becomes of the job. A move that is not in the table is refused with the current status and
the moves that are allowed. `PROCESSING` is committed before an effect leaves the process,
so an order that may have had an effect can no longer be cancelled.

";

fn render() -> String {
    let mut page = String::from(INTRO);
    page.push_str("```mermaid\nstateDiagram-v2\n    [*] --> PENDING\n");
    for t in TRANSITIONS {
        writeln!(page, "    {} --> {}", t.from, t.to).expect("a string");
    }
    for status in OrderStatus::ALL
        .into_iter()
        .filter(|s| s.allowed().is_empty())
    {
        writeln!(page, "    {status} --> [*]").expect("a string");
    }
    page.push_str("```\n\n| from | to | when | the job |\n|---|---|---|---|\n");
    for t in TRANSITIONS {
        let job = match t.job {
            JobEffect::Keep => "stays",
            JobEffect::Delete => "is deleted",
            JobEffect::Bury => "is kept for a redrive, never claimed",
            JobEffect::Requeue => "is due at once, with a new round of attempts",
        };
        writeln!(page, "| {} | {} | {} | {job} |", t.from, t.to, t.when).expect("a string");
    }
    page
}

#[test]
fn state_machine_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/state-machine.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, render()).expect("docs can be written");
    }
    let page = fs::read_to_string(&path).expect("docs/state-machine.md exists");
    assert_eq!(
        page,
        render(),
        "run this test with UPDATE_DOCS=1 and read the difference"
    );
}
