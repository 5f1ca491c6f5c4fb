//! What one reading of a configuration gathers: mistakes, warnings, settings and known keys.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::mistake::{Mistake, Mistakes, Place};
use crate::overrides::{Overrides, is_foreign, variable_name};

/// A key that the configuration knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Dotted; `[]` stands for the members of a list of tables: `admin.grants[].verbs`.
    pub path: String,
    /// What it holds: `a duration such as "10m"`.
    pub what: &'static str,
    /// Its default, written as TOML, if it has a fixed one.
    pub default: Option<String>,
}

/// The value that a key has, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Dotted, with list members by number: `admin.grants[0].verbs`.
    pub key: String,
    /// Written as TOML; none where it is unset and has no default.
    pub value: Option<String>,
    /// Where it was given.
    pub origin: Place,
}

/// A key of the file that nobody asked for.
struct Unknown {
    place: Place,
    /// The dotted path of its table, with a trailing dot, or empty.
    table: String,
    name: String,
    siblings: Vec<&'static str>,
}

pub(crate) struct Sheet<'t> {
    pub(crate) overrides: &'t Overrides,
    pub(crate) prefix: &'static str,
    source: Arc<str>,
    text: &'t str,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
    settings: Vec<Setting>,
    keys: Vec<Key>,
    tables: Vec<String>,
    places: BTreeMap<String, Place>,
    unknown: Vec<Unknown>,
}

impl<'t> Sheet<'t> {
    pub(crate) fn new(
        prefix: &'static str,
        text: &'t str,
        source: &str,
        overrides: &'t Overrides,
    ) -> Self {
        Self {
            overrides,
            prefix,
            source: Arc::from(source),
            text,
            mistakes: Vec::new(),
            warnings: Vec::new(),
            settings: Vec::new(),
            keys: Vec::new(),
            tables: Vec::new(),
            places: BTreeMap::new(),
            unknown: Vec::new(),
        }
    }

    /// Where a span of the file begins.
    pub(crate) fn place(&self, span: Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        Place::File {
            source: Arc::clone(&self.source),
            line,
            column,
        }
    }

    pub(crate) fn mistake(&mut self, place: Place, key: &str, text: String) {
        self.mistakes.push(Mistake {
            place,
            key: key.to_owned(),
            text,
        });
    }

    pub(crate) fn warning(&mut self, place: Place, key: &str, text: String) {
        self.warnings.push(Mistake {
            place,
            key: key.to_owned(),
            text,
        });
    }

    /// Where a key was given; the top of the file if it was not.
    pub(crate) fn place_of(&self, key: &str) -> Place {
        match self.places.get(key) {
            None | Some(Place::Default) => self.place(0..0),
            Some(place) => place.clone(),
        }
    }

    /// Whether a key was given, rightly or not.
    pub(crate) fn is_given(&self, key: &str) -> bool {
        self.places
            .get(key)
            .is_some_and(|place| *place != Place::Default)
    }

    pub(crate) fn given(&mut self, key: String, place: Place) {
        self.places.insert(key, place);
    }

    pub(crate) fn setting(&mut self, key: String, value: Option<String>, origin: Place) {
        self.settings.push(Setting { key, value, origin });
    }

    pub(crate) fn known(&mut self, key: Key) {
        if !self.keys.iter().any(|known| known.path == key.path) {
            self.keys.push(key);
        }
    }

    pub(crate) fn known_table(&mut self, path: &str) {
        if !self.tables.iter().any(|known| known == path) {
            self.tables.push(path.to_owned());
        }
    }

    pub(crate) fn unknown(
        &mut self,
        place: Place,
        table: String,
        name: &str,
        siblings: &[&'static str],
    ) {
        let (name, siblings) = (name.to_owned(), siblings.to_vec());
        self.unknown.push(Unknown {
            place,
            table,
            name,
            siblings,
        });
    }

    /// Ends the reading: only now every key is known, so only now can be said what was meant by
    /// the unknown ones.
    pub(crate) fn finish(mut self) -> Gathered {
        for unknown in std::mem::take(&mut self.unknown) {
            let key = format!("{}{}", unknown.table, unknown.name);
            let hint = self.hint(&unknown);
            self.mistake(
                unknown.place,
                &key,
                format!("unknown key `{}`: {hint}", quoted(&key)),
            );
        }
        self.check_variables();
        self.check_flags();
        self.mistakes.sort();
        self.warnings.sort();
        Gathered {
            problems: Mistakes {
                mistakes: self.mistakes,
                warnings: self.warnings,
            },
            settings: self.settings,
            keys: self.keys,
        }
    }

    fn hint(&self, unknown: &Unknown) -> String {
        if let Some(near) = nearest(&unknown.name, unknown.siblings.iter().copied()) {
            return format!("did you mean `{}{near}`?", unknown.table);
        }
        let elsewhere = self.keys.iter().find(|key| {
            key.path
                .rsplit('.')
                .next()
                .is_some_and(|last| last == unknown.name)
        });
        match elsewhere.and_then(|key| key.path.rsplit_once('.')) {
            Some((table, _)) if !table.ends_with("[]") => format!("it belongs into `[{table}]`"),
            Some((table, _)) => format!("it belongs into `[[{}]]`", table.trim_end_matches("[]")),
            None => format!("known here are {}", list(&unknown.siblings)),
        }
    }

    fn check_variables(&mut self) {
        let overrides = self.overrides;
        for variable in overrides.variables(self.prefix) {
            let names = || self.settable().map(|key| variable_name(self.prefix, key));
            if is_foreign(self.prefix, variable) || names().any(|name| name == variable) {
                continue;
            }
            let known: Vec<String> = names().collect();
            let hint = match nearest(variable, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "no key has that name".to_owned(),
            };
            let place = Place::Environment {
                variable: variable.to_owned(),
            };
            self.mistakes.push(Mistake {
                place,
                key: String::new(),
                text: hint,
            });
        }
    }

    fn check_flags(&mut self) {
        let overrides = self.overrides;
        for (key, has_value) in overrides.flags() {
            let is_known = self.settable().any(|known| known == key);
            let text = if !has_value {
                "no value: write `--set key=value`".to_owned()
            } else if is_known {
                continue;
            } else if self.tables.iter().any(|table| table == key) {
                format!("`{}` is a table: set one key in it", quoted(key))
            } else {
                match nearest(key, self.settable()) {
                    Some(near) => format!("unknown key: did you mean `{near}`?"),
                    None => "unknown key".to_owned(),
                }
            };
            let place = Place::Flag { key: quoted(key) };
            self.mistakes.push(Mistake {
                place,
                key: key.to_owned(),
                text,
            });
        }
    }

    /// The keys that variables and flags can set: all but those in lists of tables.
    fn settable(&self) -> impl Iterator<Item = &str> {
        self.keys
            .iter()
            .map(|key| key.path.as_str())
            .filter(|path| !path.contains("[]"))
    }
}

pub(crate) struct Gathered {
    pub(crate) problems: Mistakes,
    pub(crate) settings: Vec<Setting>,
    pub(crate) keys: Vec<Key>,
}

/// What the user typed, safe for a terminal and not too long.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let escaped: String = text
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    let dots = if text.chars().nth(LONGEST).is_some() {
        "..."
    } else {
        ""
    };
    // Quotes need no escape between backticks.
    format!(
        "{}{dots}",
        escaped.replace("\\\"", "\"").replace("\\'", "'")
    )
}

/// The candidate that `name` is most likely a slip for, if one is near enough.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer names are no slips, and comparing costs their product.
    if name.len() > 100 {
        return None;
    }
    let scored = candidates.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = scored.max_by(|one, two| one.0.total_cmp(&two.0))?;
    let slips = strsim::damerau_levenshtein(name, best.1);
    (best.0 >= 0.88 || slips <= 1 + best.1.len() / 4).then_some(best.1)
}

fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}
