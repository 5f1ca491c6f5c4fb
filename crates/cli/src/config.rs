//! Configuration files.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use taskmint_config::{AgentConfig, LoadError, Mistake, Overrides, ServerConfig, Setting, show};

use crate::context::Context;
use crate::exit::{FAILED, Failure};
use crate::output::{Field, Record, note};

/// `taskmint config`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find every mistake in a file, with line and column; nothing is started.
    Check {
        #[command(flatten)]
        file: File,
    },
    /// Show every key with the value that counts, after environment and `--set`.
    Show {
        #[command(flatten)]
        file: File,
        /// Say where each value comes from.
        #[arg(long)]
        origin: bool,
    },
}

/// Which file, and whose.
#[derive(Args, Debug)]
pub struct File {
    /// The file.
    file: PathBuf,
    /// It is a server's. Left out, the file's name tells.
    #[arg(long, conflicts_with = "agent")]
    server: bool,
    /// It is an agent's.
    #[arg(long)]
    agent: bool,
    /// Sets a key over file and environment, as the binaries' own flag does; may be repeated.
    #[arg(short, long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Command {
    pub(crate) fn execute(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Check { file } => file.check(context),
            Self::Show { file, origin } => {
                let (settings, _) = match file.load()? {
                    Ok(read) => read,
                    Err(error) => return Err(Failure::Other(error.into())),
                };
                if context.out.is_json() {
                    let records: Vec<_> = settings.iter().map(record).collect();
                    return context.out.list(&[], &records);
                }
                context.out.text(&show(&settings, origin))
            }
        }
    }
}

impl File {
    fn check(self, context: &mut Context) -> Result<(), Failure> {
        let (mistakes, warnings) = match self.load()? {
            Ok((_, warnings)) => (Vec::new(), warnings),
            Err(LoadError::Mistakes(found)) => (found.mistakes, found.warnings),
            Err(error) => return Err(Failure::Other(error.into())),
        };
        if context.out.is_json() {
            let all = |items: &[Mistake]| Field::Records(items.iter().map(mistake).collect());
            let found = Record::new()
                .flag("ok", mistakes.is_empty())
                .with("mistakes", all(&mistakes))
                .with("warnings", all(&warnings));
            context.out.one(&found)?;
        } else {
            for warning in &warnings {
                note(format_args!("\u{1b}[33mwarning:\u{1b}[0m {warning}"));
            }
            for mistake in &mistakes {
                note(format_args!("\u{1b}[1;31merror:\u{1b}[0m {mistake}"));
            }
            if mistakes.is_empty() {
                context
                    .out
                    .text(&format!("{} is good\n", self.file.display()))?;
            }
        }
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(Failure::Silent(FAILED))
        }
    }

    #[expect(
        clippy::type_complexity,
        reason = "what it is, and used in this file alone"
    )]
    fn load(&self) -> Result<Result<(Vec<Setting>, Vec<Mistake>), LoadError>, Failure> {
        let overrides = Overrides::from_process(self.set.iter().cloned());
        Ok(if self.is_server()? {
            let checked = ServerConfig::load(&self.file, &overrides);
            checked.map(|checked| (checked.settings, checked.warnings))
        } else {
            let checked = AgentConfig::load(&self.file, &overrides);
            checked.map(|checked| (checked.settings, checked.warnings))
        })
    }

    fn is_server(&self) -> Result<bool, Failure> {
        if self.server || self.agent {
            return Ok(self.server);
        }
        match whose(&self.file) {
            Some(server) => Ok(server),
            None => Err(Failure::usage(
                "the file's name does not tell whose it is: add `--server` or `--agent`",
            )),
        }
    }
}

/// True for a server's, false for an agent's.
fn whose(file: &Path) -> Option<bool> {
    let name = file.file_name()?.to_str()?;
    match (name.contains("server"), name.contains("agent")) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        _ => None,
    }
}

fn record(setting: &Setting) -> Record {
    Record::new()
        .text("key", &setting.key)
        .text("value", setting.value.clone().unwrap_or_default())
        .text("origin", setting.origin.to_string())
}

fn mistake(mistake: &Mistake) -> Record {
    Record::new()
        .text("place", mistake.place.to_string())
        .text("key", &mistake.key)
        .text("text", &mistake.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Global;
    use crate::output::{Captured, Format};

    fn check(name: &str, text: &str, format: Format) -> (Result<(), Failure>, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let captured = Captured::default();
        let mut context = Context {
            global: Global::default(),
            out: captured.output(format),
        };
        let file = File {
            file,
            server: false,
            agent: false,
            set: Vec::new(),
        };
        (file.check(&mut context), captured.text())
    }

    #[test]
    fn a_good_file_is_told_good_and_a_bad_one_with_all_its_mistakes() {
        let good = "trust_domain = \"example.org\"\n[keys]\nkind = \"memory\"\n";
        let (outcome, text) = check("server.toml", good, Format::Table);
        assert!(outcome.is_ok() && text.ends_with("is good\n"), "{text}");
        let bad = "trust_domain = 1\nlissten = 2\n[keys]\nkind = \"memory\"\n";
        let (outcome, text) = check("server.toml", bad, Format::Json);
        assert_eq!(outcome.unwrap_err().code(), FAILED);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["mistakes"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_name_tells_whose_a_file_is() {
        let table = [
            ("server.toml", Some(true)),
            ("/etc/agent.full.toml", Some(false)),
            ("taskmint.toml", None),
            ("server-agent.toml", None),
        ];
        for (name, expected) in table {
            assert_eq!(whose(Path::new(name)), expected, "{name}");
        }
        let (outcome, _) = check("taskmint.toml", "", Format::Table);
        assert_eq!(outcome.unwrap_err().code(), crate::exit::USAGE);
    }
}
