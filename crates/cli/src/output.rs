//! What a command prints: tables for people, JSON for programs.
//!
//! Both come from one [`Record`]. Its fields have the names of the protobuf messages; as JSON an
//! instant `x` is `x_ms` (milliseconds since 1970) and `x` (RFC 3339), a lifetime is `x_ms`, octets
//! are hexadecimal, and what is unset is null. A list is an array; a stream has one object a line.

mod duration;
mod record;
mod table;

use std::io::Write;

use clap::ValueEnum;
use serde_json::Value;

pub use duration::{parse_duration, show_duration};
pub use record::{Field, Record};
pub use table::Column;

use crate::exit::Failure;

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, for people.
    #[default]
    Table,
    /// JSON, for programs.
    Json,
}

/// Where a command prints.
pub struct Output {
    format: Format,
    to: Box<dyn Write>,
}

impl Output {
    /// Standard output: without colours where it is no terminal, or `NO_COLOR` is set.
    pub fn stdout(format: Format) -> Self {
        Self::to(format, anstream::stdout())
    }

    /// Somewhere else.
    pub fn to(format: Format, to: impl Write + 'static) -> Self {
        Self {
            format,
            to: Box::new(to),
        }
    }

    /// Whether a program reads it.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Several things of one kind.
    ///
    /// # Errors
    /// When it can't be written; that the reader went away is [`Failure::Silent`].
    pub fn list(&mut self, columns: &[Column], records: &[Record]) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&table::table(columns, records)),
            Format::Json => self.json(&Value::Array(records.iter().map(Record::json).collect())),
        }
    }

    /// One thing, with all its fields.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn one(&mut self, record: &Record) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&table::details(record)),
            Format::Json => self.json(&record.json()),
        }
    }

    /// The next thing of a stream.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn next(&mut self, columns: &[Column], record: &Record) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&table::line(columns, record)),
            Format::Json => self.text(&format!("{}\n", record.json())),
        }
    }

    /// A JSON value, indented.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.text(&format!("{value:#}\n"))
    }

    /// Text as it is.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes)?;
        Ok(self.to.flush()?)
    }
}

/// A remark for people, on standard error; whether it arrives changes nothing.
pub fn note(text: impl std::fmt::Display) {
    drop(writeln!(anstream::stderr(), "{text}"));
}

/// Bytes that a test can read after they were printed.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Captured(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

#[cfg(test)]
impl Captured {
    /// An output into this, without colours.
    pub(crate) fn output(&self, format: Format) -> Output {
        Output::to(
            format,
            anstream::StripStream::new(Box::new(self.clone()) as Box<dyn Write>),
        )
    }

    /// What was printed.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.borrow()).into_owned()
    }
}

#[cfg(test)]
impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
