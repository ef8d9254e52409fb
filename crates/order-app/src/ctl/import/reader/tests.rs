use std::io::Cursor;

use super::*;

fn reader(text: &str, format: FileFormat, bytes_done: u64, batch_len_max: usize) -> BatchReader {
    BatchReader::new(Input {
        source: Box::new(Cursor::new(text.to_owned())),
        path: "orders".into(),
        format,
        bytes_done,
        batch_len_max,
    })
}

/// All batches up to the last.
fn batches(mut reader: BatchReader) -> Vec<Batch> {
    let mut batches = Vec::new();
    loop {
        let batch = reader.next_batch().expect("readable");
        let is_last = batch.is_last;
        batches.push(batch);
        if is_last {
            return batches;
        }
    }
}

/// The line and the amount of each order.
fn amounts(batches: &[Batch]) -> Vec<(u64, String)> {
    let orders = batches.iter().flat_map(|batch| &batch.orders);
    orders
        .map(|(line, order)| (*line, order.money.to_string()))
        .collect()
}

fn key(order: &CreateOrder) -> &str {
    order.idempotency_key.as_ref().expect("a key").as_str()
}

fn line(amount: u32) -> String {
    format!("{{\"user_id\":\"u\",\"amount\":{amount}}}\n")
}

#[test]
fn lines_are_cut_into_batches() {
    let text: String = (1..=5).map(line).collect();
    let batches = batches(reader(&text, FileFormat::Jsonl, 0, 2));
    let lens: Vec<_> = batches.iter().map(|batch| batch.orders.len()).collect();
    assert_eq!(lens, [2, 2, 1]);
    let numbers: Vec<_> = batches.iter().map(|batch| batch.number).collect();
    assert_eq!(numbers, [0, 1, 2]);
    let ends: Vec<_> = batches.iter().map(|batch| batch.end.lines).collect();
    assert_eq!(ends, [2, 4, 5]);
    for batch in &batches {
        let hash = hash_prefix(text.as_bytes(), batch.end.bytes).expect("memory");
        assert_eq!(hash, Some(batch.end.sha256));
    }
}

#[test]
fn bad_and_blank_lines_leave_the_others_alone() {
    let text = format!(
        "\u{feff}{}\r\n{{\r\n  \r\n{}",
        line(1).trim(),
        line(4).trim()
    );
    let batches = batches(reader(&text, FileFormat::Jsonl, 0, 100));
    assert_eq!(
        amounts(&batches),
        [(1, "1".to_owned()), (4, "4".to_owned())]
    );
    let failed: Vec<_> = batches[0]
        .failures
        .iter()
        .map(|failure| failure.line)
        .collect();
    assert_eq!(failed, [2]);
    assert_eq!(batches[0].end.lines, 4);
}

#[test]
fn a_line_that_is_too_long_is_skipped_as_a_whole() {
    let long = "x".repeat(3 * usize::try_from(LINE_BYTES_MAX).expect("small"));
    let text = format!("{}{long}\n{}", line(1), line(3));
    let batches = batches(reader(&text, FileFormat::Jsonl, 0, 100));
    assert_eq!(
        amounts(&batches),
        [(1, "1".to_owned()), (3, "3".to_owned())]
    );
    let [failure] = batches[0].failures.as_slice() else {
        panic!("{:?}", batches[0].failures);
    };
    let rules: Vec<_> = failure.violations.iter().map(ToString::to_string).collect();
    assert_eq!(
        (failure.line, rules[0].as_str()),
        (2, "must have at most 262144 bytes")
    );
}

#[test]
fn a_line_of_exactly_the_longest_length_is_read() {
    let line = line(1);
    let room = usize::try_from(LINE_BYTES_MAX).expect("small") - line.len();
    for (spaces, n_orders) in [(room, 1), (room + 1, 0)] {
        let text = format!("{}{line}", " ".repeat(spaces));
        let batches = batches(reader(&text, FileFormat::Jsonl, 0, 100));
        assert_eq!(batches[0].orders.len(), n_orders);
        assert_eq!(batches[0].end.lines, 1);
    }
}

#[test]
fn done_lines_count_for_the_keys_of_those_that_follow() {
    let text = line(1).repeat(3);
    let all = batches(reader(&text, FileFormat::Jsonl, 0, 100));
    let done = u64::try_from(line(1).len() * 2).expect("small");
    let rest = batches(reader(&text, FileFormat::Jsonl, done, 100));
    assert_eq!(amounts(&rest), [(3, "1".to_owned())]);
    let (_, third) = &all[0].orders[2];
    let (_, resumed) = &rest[0].orders[0];
    assert_eq!(key(third), key(resumed));
    assert_eq!(all[0].end, rest[0].end);
}

#[test]
fn both_formats_give_a_line_the_same_key() {
    let json = batches(reader(&line(7), FileFormat::Jsonl, 0, 1));
    let table = batches(reader("amount,user_id\n7.00,u\n", FileFormat::Csv, 0, 1));
    assert_eq!(amounts(&table), [(2, "7".to_owned())]);
    assert_eq!(key(&json[0].orders[0].1), key(&table[0].orders[0].1));
}

#[test]
fn a_broken_header_ends_the_import() {
    for header in ["user_id\n", "user_id,amount,\"x\n"] {
        let mut reader = reader(&format!("{header}u,1\n"), FileFormat::Csv, 0, 100);
        let failure = reader.next_batch().expect_err(header);
        assert!(matches!(failure, Failure::Usage(_)), "{failure:?}");
    }
}

#[test]
fn a_batch_fits_into_a_message() {
    let metadata: Vec<_> = (10..60)
        .map(|n| format!("\"{n}\":\"{}\"", "€".repeat(500)))
        .collect();
    let line = format!(
        "{{\"user_id\":\"u\",\"amount\":1,\"metadata\":{{{}}}}}\n",
        metadata.join(",")
    );
    let batches = batches(reader(&line.repeat(40), FileFormat::Jsonl, 0, 1_000));
    assert!(batches.len() > 2, "{}", batches.len());
    for batch in &batches {
        let bytes: usize = batch
            .orders
            .iter()
            .map(|(_, order)| message_bytes(order))
            .sum();
        assert!(bytes <= REQUEST_BYTES_MAX, "{bytes}");
    }
    assert_eq!(amounts(&batches).len(), 40);
}

#[test]
fn a_prefix_ends_with_a_line_or_with_the_source() {
    let hash = |text: &str, bytes| hash_prefix(text.as_bytes(), bytes).expect("memory");
    assert!(hash("a\nb", 2).is_some());
    assert!(hash("a\nb", 3).is_some());
    assert_eq!(hash("a\nb\n", 3), None);
    assert_eq!(hash("a\nb", 4), None);
    assert_eq!(hash("a\nb", 2), hash("a\nc", 2));
    assert_ne!(hash("a\nb", 2), hash("c\nb", 2));
}
