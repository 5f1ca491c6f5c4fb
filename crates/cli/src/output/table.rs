//! Columns for people.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::record::{one_line, words};
use super::{Field, Record};

/// Fields of a thing within another that fit on one line.
const SHORT: usize = 4;

const BOLD: &str = "\u{1b}[1m";
const FAINT: &str = "\u{1b}[2m";
const PLAIN: &str = "\u{1b}[0m";

/// A column: its heading, and the field that it shows.
pub type Column = (&'static str, &'static str);

/// A heading and a row each; rows of what is over are faint.
pub(super) fn table(columns: &[Column], records: &[Record]) -> String {
    let mut table = plain();
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for record in records {
        table.add_row(cells(columns, record));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        if index > 0 && is_number(columns, records, index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for (index, line) in table.lines().enumerate() {
        let style = match index.checked_sub(1).and_then(|index| records.get(index)) {
            None => BOLD,
            Some(record) if is_over(record) => FAINT,
            Some(_) => "",
        };
        push(&mut text, style, line.trim_end());
    }
    text
}

/// A line for each field that is set; what is within it and long stands below its name.
pub(super) fn details(record: &Record) -> String {
    let mut table = plain();
    rows(record, "", &mut table);
    let mut text = String::new();
    for line in table.lines() {
        push(&mut text, "", line.trim_end());
    }
    text
}

fn rows(record: &Record, indent: &str, table: &mut Table) {
    for (name, field) in record.fields() {
        let name = format!("{indent}{}", words(name));
        match field {
            Field::Record(Some(within)) if within.fields().count() > SHORT => {
                table.add_row([name, String::new()]);
                rows(within, &format!("{indent}  "), table);
            }
            Field::Lines(lines) => {
                for (index, line) in lines.iter().enumerate() {
                    let name = if index == 0 { name.as_str() } else { "" };
                    table.add_row([name, &one_line(line)]);
                }
            }
            other => {
                let shown = other.show();
                if !shown.is_empty() {
                    table.add_row([name, shown]);
                }
            }
        }
    }
}

/// One row of a table that has no end.
pub(super) fn line(columns: &[Column], record: &Record) -> String {
    let mut text = String::new();
    let style = if is_over(record) { FAINT } else { "" };
    push(
        &mut text,
        style,
        cells(columns, record).join("  ").trim_end(),
    );
    text
}

fn plain() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn cells(columns: &[Column], record: &Record) -> Vec<String> {
    let shown = |(_, name): &Column| record.get(name).map(Field::show).unwrap_or_default();
    columns
        .iter()
        .map(shown)
        .map(|text| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text
            }
        })
        .collect()
}

fn is_number(columns: &[Column], records: &[Record], index: usize) -> bool {
    let Some((_, name)) = columns.get(index) else {
        return false;
    };
    let number = |record: &Record| matches!(record.get(name), Some(Field::Number(_)));
    !records.is_empty() && records.iter().all(number)
}

fn is_over(record: &Record) -> bool {
    let over = ["ended", "retired", "evicted", "banned"];
    matches!(record.get("state"), Some(Field::Text(state)) if over.contains(&state.as_str()))
}

fn push(text: &mut String, style: &str, line: &str) {
    let end = if style.is_empty() { "" } else { PLAIN };
    // Writing into a string can't fail.
    writeln!(text, "{style}{line}{end}").ok();
}
