//! Reads one table, key by key: what is asked for is thereby known, all else is a mistake.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::mistake::Place;
use crate::overrides::variable_name;
use crate::sheet::{Key, Sheet};
use crate::value::{Raw, Value, type_name};

/// A table being read.
///
/// Values come from a flag, else an environment variable, else the file, else the default.
/// Mistakes are gathered, never returned: reading goes on with a stand-in, and the whole is
/// refused at the end.
pub(crate) struct Reader<'s, 't> {
    sheet: &'s mut Sheet<'t>,
    table: Option<&'t DeTable<'t>>,
    /// `log.`, `admin.grants[0].`, or empty.
    path: String,
    /// The same with `[]` for members.
    pattern: String,
    place: Place,
    asked: Vec<&'static str>,
    /// Only the names of the keys count: the table is absent, or a mistake already reported.
    probing: bool,
}

impl<'s, 't> Reader<'s, 't> {
    pub(crate) fn root(sheet: &'s mut Sheet<'t>, table: &'t DeTable<'t>) -> Self {
        let place = sheet.place(0..0);
        Self {
            sheet,
            table: Some(table),
            path: String::new(),
            pattern: String::new(),
            place,
            asked: Vec::new(),
            probing: false,
        }
    }

    /// Asks for a value; the [`Field`] says what to do with or without it.
    pub(crate) fn value<T: Value>(&mut self, key: &'static str) -> Field<'_, 's, 't, T> {
        self.asked.push(key);
        let mut found = None;
        let mut is_wrong = false;
        if let Some((raw, place)) = self.find(key) {
            self.sheet
                .given(format!("{}{key}", self.path), place.clone());
            match T::read(raw) {
                Ok(value) => found = Some((value, place)),
                Err(wrongs) => {
                    is_wrong = true;
                    for wrong in wrongs {
                        let place = match wrong.span {
                            Some(span) => self.sheet.place(span),
                            None => place.clone(),
                        };
                        let key = format!("{}{key}", self.path);
                        self.report(place, &key, wrong.text.describe(&key, T::WHAT));
                    }
                }
            }
        }
        Field {
            reader: self,
            key,
            found,
            is_wrong,
        }
    }

    /// Reads a table; where it is absent, as if it were there and empty.
    pub(crate) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'_, 't>) -> T,
    ) -> T {
        let (table, place, is_wrong) = self.find_table(key);
        let place = place.unwrap_or_else(|| self.place.clone());
        let probing = self.probing || is_wrong;
        self.descend(key, None, table, place, probing, read)
    }

    /// Reads a table if it is there, in the file or by an override of one of its keys.
    pub(crate) fn optional_table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'_, 't>) -> T,
    ) -> Option<T> {
        let (table, place, is_wrong) = self.find_table(key);
        let is_there = table.is_some() || self.is_overridden(key);
        if let Some(place) = &place {
            self.sheet
                .given(format!("{}{key}", self.path), place.clone());
        }
        let place = place.unwrap_or_else(|| self.place.clone());
        let probing = self.probing || is_wrong || !is_there;
        let value = self.descend(key, None, table, place, probing, read);
        is_there.then_some(value)
    }

    /// Reads a list of tables, `[[key]]` each. Only the file can have one.
    pub(crate) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Reader<'_, 't>) -> T,
    ) -> Vec<T> {
        self.asked.push(key);
        let place = self.place.clone();
        // Once without a table, so that the keys are known though the list may be empty.
        self.descend(key, Some(0), None, place, true, &mut read);
        let Some((_, value)) = self.in_file(key) else {
            return Vec::new();
        };
        let place = self.sheet.place(value.span());
        let path = format!("{}{key}", self.path);
        let DeValue::Array(items) = value.get_ref() else {
            let found = type_name(value.get_ref());
            self.report(
                place,
                &path,
                format!("`{path}` is {found}: write `[[{path}]]`"),
            );
            return Vec::new();
        };
        self.sheet.given(path.clone(), place);
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let place = self.sheet.place(item.span());
            if let DeValue::Table(table) = item.get_ref() {
                values.push(self.descend(
                    key,
                    Some(index),
                    Some(table),
                    place,
                    self.probing,
                    &mut read,
                ));
            } else {
                let found = type_name(item.get_ref());
                let text = format!("`{path}[{index}]` is {found}: write `[[{path}]]`");
                self.report(place, &path, text);
            }
        }
        values
    }

    /// Reports a mistake about a key of this table, where the key was given.
    pub(crate) fn mistake(&mut self, key: &str, text: impl Display) {
        let key = format!("{}{key}", self.path);
        let place = self.place_of(&key);
        self.report(place, &key, format!("`{key}`: {text}"));
    }

    /// Reports a warning about a key of this table, where the key was given.
    pub(crate) fn warning(&mut self, key: &str, text: impl Display) {
        if !self.probing {
            let key = format!("{}{key}", self.path);
            let place = self.place_of(&key);
            self.sheet.warning(place, &key, format!("`{key}`: {text}"));
        }
    }

    /// Whether a key of this table was given, rightly or not.
    pub(crate) fn is_given(&self, key: &str) -> bool {
        self.sheet.is_given(&format!("{}{key}", self.path))
    }

    /// Where the service manager would have put a credential, if it gave any.
    pub(crate) fn credential(&self, name: &str) -> Option<PathBuf> {
        self.sheet.overrides.credential(name)
    }

    /// Reports every key of the table that was not asked for.
    pub(crate) fn close(self) {
        let Some(table) = self.table.filter(|_| !self.probing) else {
            return;
        };
        for (key, _) in table {
            let name: &str = key.get_ref();
            if !self.asked.contains(&name) {
                let place = self.sheet.place(key.span());
                self.sheet
                    .unknown(place, self.path.clone(), name, &self.asked);
            }
        }
    }

    fn place_of(&self, key: &str) -> Place {
        if self.sheet.is_given(key) {
            self.sheet.place_of(key)
        } else {
            self.place.clone()
        }
    }

    fn report(&mut self, place: Place, key: &str, text: String) {
        if !self.probing {
            self.sheet.mistake(place, key, text);
        }
    }

    fn in_file(
        &self,
        key: &str,
    ) -> Option<(
        &'t Spanned<std::borrow::Cow<'t, str>>,
        &'t Spanned<DeValue<'t>>,
    )> {
        let entries = self.table?.iter();
        entries
            .into_iter()
            .find(|(name, _)| name.get_ref().as_ref() == key)
    }

    fn find(&self, key: &str) -> Option<(Raw<'t>, Place)> {
        if self.probing {
            return None;
        }
        if !self.pattern.contains("[]") {
            let path = format!("{}{key}", self.path);
            let overrides = self.sheet.overrides;
            if let Some(text) = overrides.flag(&path) {
                return Some((Raw::Text(text), Place::Flag { key: path }));
            }
            let variable = variable_name(self.sheet.prefix, &path);
            if let Some(text) = overrides.variable(&variable) {
                return Some((Raw::Text(text), Place::Environment { variable }));
            }
        }
        let (_, value) = self.in_file(key)?;
        Some((Raw::Toml(value), self.sheet.place(value.span())))
    }

    fn find_table(&mut self, key: &'static str) -> (Option<&'t DeTable<'t>>, Option<Place>, bool) {
        self.asked.push(key);
        let Some((name, value)) = self.in_file(key) else {
            return (None, None, false);
        };
        if let DeValue::Table(table) = value.get_ref() {
            return (Some(table), Some(self.sheet.place(name.span())), false);
        }
        let place = self.sheet.place(value.span());
        let path = format!("{}{key}", self.path);
        let found = type_name(value.get_ref());
        self.report(
            place.clone(),
            &path,
            format!("`{path}` is {found}: write a table, `[{path}]`"),
        );
        (None, Some(place), true)
    }

    fn is_overridden(&self, key: &str) -> bool {
        let path = format!("{}{key}.", self.path);
        let variable = variable_name(self.sheet.prefix, &path);
        let overrides = self.sheet.overrides;
        overrides.flags().any(|(flag, _)| flag.starts_with(&path))
            || overrides.variables(&variable).next().is_some()
    }

    fn descend<T>(
        &mut self,
        key: &str,
        index: Option<usize>,
        table: Option<&'t DeTable<'t>>,
        place: Place,
        probing: bool,
        read: impl FnOnce(&mut Reader<'_, 't>) -> T,
    ) -> T {
        let member = index.map_or_else(String::new, |index| format!("[{index}]"));
        let any = if index.is_some() { "[]" } else { "" };
        self.sheet
            .known_table(&format!("{}{key}{any}", self.pattern));
        let mut reader = Reader {
            path: format!("{}{key}{member}.", self.path),
            pattern: format!("{}{key}{any}.", self.pattern),
            sheet: &mut *self.sheet,
            table,
            place,
            asked: Vec::new(),
            probing,
        };
        let value = read(&mut reader);
        reader.close();
        value
    }
}

/// A key that was asked for: [`Field::or`], [`Field::optional`] or [`Field::required`] ends it.
#[must_use = "a field counts only when it is ended"]
pub(crate) struct Field<'r, 's, 't, T> {
    reader: &'r mut Reader<'s, 't>,
    key: &'static str,
    found: Option<(T, Place)>,
    is_wrong: bool,
}

impl<T: Value> Field<'_, '_, '_, T> {
    /// Refuses what lies outside of `range`.
    pub(crate) fn within(self, range: RangeInclusive<T>) -> Self
    where
        T: PartialOrd,
    {
        let (least, most) = (range.start().show(), range.end().show());
        self.check(|value| {
            if range.contains(value) {
                return Ok(());
            }
            Err(format!(
                "{} is out of range: write {least} to {most}",
                value.show()
            ))
        })
    }

    /// Refuses what `judge` refuses, with its words; they follow the key.
    pub(crate) fn check(mut self, judge: impl FnOnce(&T) -> Result<(), String>) -> Self {
        if let Some((value, place)) = &self.found
            && let Err(text) = judge(value)
        {
            let key = format!("{}{}", self.reader.path, self.key);
            let place = place.clone();
            self.reader.report(place, &key, format!("`{key}`: {text}"));
            self.found = None;
            self.is_wrong = true;
        }
        self
    }

    /// The value, or a fixed default.
    pub(crate) fn or(self, default: T) -> T {
        let shown = default.show();
        self.end(Some(shown.clone()), Some(shown))
            .unwrap_or(default)
    }

    /// The value, or a default that follows from other keys.
    pub(crate) fn or_derived(self, default: T) -> T {
        let shown = default.show();
        self.end(None, Some(shown)).unwrap_or(default)
    }

    /// The value, if there is one.
    pub(crate) fn optional(self) -> Option<T> {
        self.end(None, None)
    }

    /// The value; a mistake if there is none. `example` is written as TOML.
    pub(crate) fn required(self, example: &str) -> Option<T> {
        if self.found.is_none() && !self.is_wrong {
            let reader = &mut *self.reader;
            let (key, name) = (format!("{}{}", reader.path, self.key), self.key);
            let place = reader.place.clone();
            let table = match reader.path.trim_end_matches('.') {
                "" => String::new(),
                table if table.ends_with(']') => String::new(),
                table => format!(" in `[{table}]`"),
            };
            let text = format!("missing key `{key}`: write `{name} = {example}`{table}");
            reader.report(place, &key, text);
        }
        self.end(None, None)
    }

    fn end(self, default: Option<String>, stand_in: Option<String>) -> Option<T> {
        let Reader {
            sheet,
            path,
            pattern,
            probing,
            ..
        } = self.reader;
        sheet.known(Key {
            path: format!("{pattern}{}", self.key),
            what: T::WHAT,
            default,
        });
        if !*probing && !self.is_wrong {
            let (shown, origin) = match &self.found {
                Some((value, place)) => (Some(value.show()), place.clone()),
                None => (stand_in, Place::Default),
            };
            sheet.setting(format!("{path}{}", self.key), shown, origin);
        }
        self.found.map(|(value, _)| value)
    }
}
