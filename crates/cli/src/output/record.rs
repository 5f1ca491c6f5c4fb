//! One thing with named fields, from which every way of printing it is made.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use taskmint_model::Timestamp;

use super::show_duration;

/// One thing: named fields, in the order in which people read them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record(Vec<(&'static str, Field)>);

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// Text; empty is unset.
    Text(String),
    /// A number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Milliseconds since 1970; 0 is unset.
    Instant(u64),
    /// Milliseconds; 0 is unset.
    Lifetime(u64),
    /// Octets.
    Octets(Vec<u8>),
    /// Several texts.
    List(Vec<String>),
    /// Several texts that need a line each.
    Lines(Vec<String>),
    /// Texts by name.
    Map(BTreeMap<String, String>),
    /// A thing within it, if there is one.
    Record(Option<Record>),
    /// Several things within it.
    Records(Vec<Record>),
}

impl Record {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one field more.
    #[must_use]
    pub fn with(mut self, name: &'static str, field: Field) -> Self {
        self.0.push((name, field));
        self
    }

    /// With a text more.
    #[must_use]
    pub fn text(self, name: &'static str, text: impl Into<String>) -> Self {
        self.with(name, Field::Text(text.into()))
    }

    /// With a number more.
    #[must_use]
    pub fn number(self, name: &'static str, number: impl Into<u64>) -> Self {
        self.with(name, Field::Number(number.into()))
    }

    /// With a yes or no more.
    #[must_use]
    pub fn flag(self, name: &'static str, flag: bool) -> Self {
        self.with(name, Field::Flag(flag))
    }

    /// With an instant more.
    #[must_use]
    pub fn instant(self, name: &'static str, millis: u64) -> Self {
        self.with(name, Field::Instant(millis))
    }

    /// With a lifetime more.
    #[must_use]
    pub fn lifetime(self, name: &'static str, millis: u64) -> Self {
        self.with(name, Field::Lifetime(millis))
    }

    /// With octets more.
    #[must_use]
    pub fn octets(self, name: &'static str, octets: impl Into<Vec<u8>>) -> Self {
        self.with(name, Field::Octets(octets.into()))
    }

    /// With several texts more.
    #[must_use]
    pub fn list(self, name: &'static str, list: &[String]) -> Self {
        self.with(name, Field::List(list.to_vec()))
    }

    /// With several texts more that need a line each.
    #[must_use]
    pub fn lines(self, name: &'static str, lines: &[String]) -> Self {
        self.with(name, Field::Lines(lines.to_vec()))
    }

    /// One field.
    pub fn get(&self, name: &str) -> Option<&Field> {
        self.0
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, field)| field)
    }

    /// All fields.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &Field)> {
        self.0.iter().map(|(name, field)| (*name, field))
    }

    /// As a JSON object.
    pub fn json(&self) -> Value {
        let mut members = Map::new();
        for (name, field) in &self.0 {
            match field {
                Field::Instant(millis) => {
                    members.insert(format!("{name}_ms"), unset_if(*millis == 0, *millis));
                    let text = Timestamp::from_millis(*millis).to_string();
                    members.insert((*name).to_owned(), unset_if(*millis == 0, text));
                }
                Field::Lifetime(millis) => {
                    members.insert(format!("{name}_ms"), unset_if(*millis == 0, *millis));
                }
                other => {
                    members.insert((*name).to_owned(), other.json());
                }
            }
        }
        Value::Object(members)
    }
}

impl Field {
    fn json(&self) -> Value {
        match self {
            Self::Text(text) => unset_if(text.is_empty(), text.as_str()),
            Self::Number(number) | Self::Instant(number) | Self::Lifetime(number) => {
                Value::from(*number)
            }
            Self::Flag(flag) => Value::from(*flag),
            Self::Octets(octets) => unset_if(octets.is_empty(), hex::encode(octets)),
            Self::List(list) | Self::Lines(list) => Value::from(list.as_slice()),
            Self::Map(map) => {
                let members = map
                    .iter()
                    .map(|(k, v)| (k.clone(), Value::from(v.as_str())));
                Value::Object(members.collect())
            }
            Self::Record(record) => record.as_ref().map_or(Value::Null, Record::json),
            Self::Records(records) => records.iter().map(Record::json).collect(),
        }
    }

    /// For people; empty if there is nothing to show.
    pub fn show(&self) -> String {
        match self {
            Self::Text(text) => one_line(text),
            Self::Number(number) => number.to_string(),
            Self::Flag(true) => "yes".to_owned(),
            Self::Flag(false) => "no".to_owned(),
            Self::Instant(0) | Self::Lifetime(0) => String::new(),
            Self::Instant(millis) => Timestamp::from_millis(*millis)
                .floor_to_second()
                .to_string(),
            Self::Lifetime(millis) => show_duration(*millis),
            Self::Octets(octets) => hex::encode(octets),
            Self::List(list) | Self::Lines(list) => one_line(&list.join(", ")),
            Self::Map(map) => {
                let pairs: Vec<_> = map
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                one_line(&pairs.join(", "))
            }
            Self::Record(None) => String::new(),
            Self::Record(Some(record)) => {
                let shown = record.fields().filter_map(|(name, field)| {
                    let text = field.show();
                    (!text.is_empty()).then(|| format!("{}: {text}", words(name)))
                });
                shown.collect::<Vec<_>>().join(", ")
            }
            Self::Records(records) => records.len().to_string(),
        }
    }
}

/// A field's name as people read it.
pub(super) fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn unset_if(unset: bool, value: impl Into<Value>) -> Value {
    if unset { Value::Null } else { value.into() }
}

/// Others chose these texts: a purpose must not move the cursor or fake a row.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
