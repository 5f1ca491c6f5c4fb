use super::*;

fn record() -> Record {
    Record::new()
        .text("id", "a")
        .text("state", "live")
        .text("hint", "")
        .number("children", 3_u32)
        .flag("implicit", true)
        .instant("deadline", 1_700_000_000_123)
        .instant("ended_at", 0)
        .lifetime("ttl", 600_000)
        .octets("log_id", [1, 0xab])
        .list("scopes", &["x".to_owned(), "y".to_owned()])
        .with(
            "suspension",
            Field::Record(Some(Record::new().text("by", "uid:0"))),
        )
}

#[test]
fn json_names_are_the_protos_and_instants_come_twice() {
    let expected = serde_json::json!({
        "id": "a", "state": "live", "hint": null, "children": 3, "implicit": true,
        "deadline_ms": 1_700_000_000_123_u64, "deadline": "2023-11-14T22:13:20.123Z",
        "ended_at_ms": null, "ended_at": null, "ttl_ms": 600_000, "log_id": "01ab",
        "scopes": ["x", "y"], "suspension": { "by": "uid:0" },
    });
    assert_eq!(record().json(), expected);
}

#[test]
fn a_table_has_a_heading_and_a_row_each() {
    let captured = Captured::default();
    let columns = [
        ("ID", "id"),
        ("CHILDREN", "children"),
        ("DEADLINE", "deadline"),
        ("HINT", "hint"),
    ];
    captured
        .output(Format::Table)
        .list(&columns, &[record(), record()])
        .unwrap();
    let row = " a          3  2023-11-14T22:13:20Z  -";
    let expected = format!(" ID  CHILDREN  DEADLINE              HINT\n{row}\n{row}\n");
    assert_eq!(captured.text(), expected);
}

#[test]
fn details_leave_out_what_is_unset() {
    let captured = Captured::default();
    captured.output(Format::Table).one(&record()).unwrap();
    let text = captured.text();
    assert!(text.contains(" ttl         10m\n"), "{text}");
    assert!(text.contains(" suspension  by: uid:0\n"), "{text}");
    assert!(
        !text.contains("hint") && !text.contains("ended at"),
        "{text}"
    );
}

#[test]
fn a_stream_is_one_object_a_line() {
    let captured = Captured::default();
    let mut output = captured.output(Format::Json);
    output.next(&[], &record()).unwrap();
    output.next(&[], &record()).unwrap();
    let text = captured.text();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, [record().json(), record().json()]);
}

#[test]
fn what_others_wrote_cannot_move_the_cursor() {
    let evil = Record::new().text("purpose", "fine\u{1b}[2J\nfake row");
    let captured = Captured::default();
    captured
        .output(Format::Table)
        .list(&[("PURPOSE", "purpose")], &[evil])
        .unwrap();
    assert_eq!(captured.text().lines().count(), 2);
    assert!(!captured.text().contains('\u{1b}'));
}

#[test]
fn what_is_long_stands_below_its_name_and_lines_below_each_other() {
    let long = Record::new()
        .text("a", "1")
        .text("b", "2")
        .text("c", "3")
        .text("d", "4")
        .text("e", "5");
    let record = Record::new()
        .with("task", Field::Record(Some(long)))
        .lines("detail", &["first".to_owned(), "second".to_owned()]);
    let captured = Captured::default();
    captured.output(Format::Table).one(&record).unwrap();
    let expected = " task\n   a     1\n   b     2\n   c     3\n   d     4\n   e     5\n \
                    detail  first\n         second\n";
    assert_eq!(captured.text(), expected);
}
