//! The configuration in force, with origins.

use std::fmt::Write;

use crate::sheet::Setting;

/// Writes every setting, one a line, as `key = value`; with `origin`, who gave it as a comment.
/// What is unset and has no default is shown as a comment.
pub fn show(settings: &[Setting], origin: bool) -> String {
    let lines: Vec<String> = settings
        .iter()
        .map(|setting| match &setting.value {
            Some(value) => format!("{} = {value}", setting.key),
            None => format!("# {} is unset", setting.key),
        })
        .collect();
    let width = lines
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or_default();
    let mut text = String::new();
    for (line, setting) in lines.iter().zip(settings) {
        let written = match &setting.value {
            Some(_) if origin => writeln!(text, "{line:width$}  # {}", setting.origin),
            _ => writeln!(text, "{line}"),
        };
        // Writing into a string can't fail.
        debug_assert!(written.is_ok());
    }
    text
}
