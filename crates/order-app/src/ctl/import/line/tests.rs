use super::*;

/// What becomes of a line: the request in one line of text, or each broken rule.
fn read(parser: &LineParser, line: &str) -> Vec<String> {
    match parser.parse(line.as_bytes()) {
        Ok(request) => {
            let external_id = request.external_id.as_ref().map_or("-", |id| id.as_str());
            let metadata: Vec<_> = request.metadata.iter().collect();
            vec![format!(
                "{} {} {} {external_id} {metadata:?}",
                request.user_id,
                request.money,
                request.money.currency()
            )]
        }
        Err(violations) => violations.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn json_lines_become_requests() {
    for (line, expected) in [
        (r#"{"user_id":"u","amount":99.95}"#, "u 99.95 USD - []"),
        (
            r#" { "amount" : "1e2" , "user_id" : "u" } "#,
            "u 100 USD - []",
        ),
        (
            r#"{"user_id":"\u00fc\"","amount":9999999999999.99,"currency":"USD"}"#,
            "ü\" 9999999999999.99 USD - []",
        ),
        (
            r#"{"user_id":"u","amount":5,"currency":"JPY","external_id":"x-1","metadata":{"b":"2","a":""}}"#,
            r#"u 5 JPY x-1 [("a", ""), ("b", "2")]"#,
        ),
    ] {
        assert_eq!(read(&LineParser::Json, line), [expected], "{line}");
    }
}

#[test]
fn broken_json_lines_name_field_and_rule() {
    for (line, expected) in [
        ("{", "is not JSON at column 1: EOF while parsing an object"),
        ("[1]", "must be a JSON object"),
        ("{} {}", "is not JSON at column 4: trailing characters"),
        (r#"{"amount":1}"#, "user_id: is required"),
        (r#"{"user_id":"u"}"#, "amount: is required"),
        (r#"{"user_id":7,"amount":1}"#, "user_id: must be a string"),
        (
            r#"{"user_id":null,"amount":1}"#,
            "user_id: must be a string",
        ),
        (
            r#"{"user_id":"u","amount":true}"#,
            "amount: must be a number or a decimal string",
        ),
        (
            r#"{"user_id":"u","amount":-1}"#,
            "amount: must be greater than 0",
        ),
        (
            r#"{"user_id":"u","amount":0.1000000000000000055511151231257827}"#,
            "amount: must have at most 2 decimal places in USD",
        ),
        (
            r#"{"user_id":"u","amount":1,"amount":1}"#,
            "amount: is given twice",
        ),
        (
            r#"{"user_id":"u","amount":1,"status":"FAILED"}"#,
            "status: unknown field",
        ),
        (
            r#"{"user_id":"u","amount":1,"metadata":[]}"#,
            "metadata: must be an object of strings",
        ),
        (
            r#"{"user_id":"u","amount":1,"metadata":{"a":1}}"#,
            "metadata/a: must be a string",
        ),
        (
            r#"{"user_id":"u","amount":1,"metadata":{"a":"1","a":"2"}}"#,
            "metadata/a: is given twice",
        ),
        (
            r#"{"user_id":"u","amount":1,"currency":"usd"}"#,
            "currency: must be an ISO 4217 code like USD",
        ),
    ] {
        assert_eq!(read(&LineParser::Json, line), [expected], "{line}");
    }
}

#[test]
fn a_json_line_tells_all_that_is_wrong() {
    let line = r#"{"user_id":"","amount":"x","a/b":1}"#;
    assert_eq!(
        read(&LineParser::Json, line),
        [
            "a~1b: unknown field",
            "user_id: must not be empty",
            "amount: must be a decimal number like 100 or 99.95",
        ]
    );
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let violations = LineParser::Json.parse(b"{\"\xff").expect_err("not text");
    let told: Vec<_> = violations.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["is not UTF-8 at byte 3"]);
}

fn table(header: &str) -> LineParser {
    LineParser::from_header(header.as_bytes()).expect("a good header")
}

#[test]
fn rows_become_requests() {
    let parser = table("amount,user_id,metadata.note,external_id,currency,metadata.b");
    for (line, expected) in [
        ("99.95,u,,,,", "u 99.95 USD - []"),
        (
            "5,\"a,b\",\"say \"\"hi\"\"\",x-1,JPY,\"\"",
            r#"a,b 5 JPY x-1 [("b", ""), ("note", "say \"hi\"")]"#,
        ),
    ] {
        assert_eq!(read(&parser, line), [expected], "{line}");
    }
}

#[test]
fn broken_rows_name_field_and_rule() {
    let parser = table("user_id,amount,currency");
    for (line, expected) in [
        ("u,1", "must have 3 cells like the header, not 2"),
        ("u,1,USD,", "must have 3 cells like the header, not 4"),
        (",1,USD", "user_id: is required"),
        ("\"\",1,USD", "user_id: must not be empty"),
        ("u,,USD", "amount: is required"),
        (
            "u,1.001,USD",
            "amount: must have at most 2 decimal places in USD",
        ),
        ("\"u,1,USD", "a quoted cell must end on its line"),
    ] {
        assert_eq!(read(&parser, line), [expected], "{line}");
    }
}

#[test]
fn broken_headers_name_column_and_rule() {
    for (header, expected) in [
        ("user_id", vec!["amount: is missing in the header"]),
        ("user_id,amount,amount", vec!["amount: is given twice"]),
        ("user_id,amount,status", vec!["status: unknown column"]),
        (
            "user_id,amount,metadata.",
            vec!["metadata.: must have 1 to 40 characters after metadata."],
        ),
    ] {
        let Err(violations) = LineParser::from_header(header.as_bytes()) else {
            panic!("{header} was taken");
        };
        let told: Vec<_> = violations.iter().map(ToString::to_string).collect();
        assert_eq!(told, expected, "{header}");
    }
}
