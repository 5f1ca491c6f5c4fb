//! Runs targets over their corpora, without a fuzzer: `fuzz-replay CORPUS-FOLDER [TARGET...]`, or
//! `fuzz-replay --list`.
//!
//! Fails if a target panics, has no input, or if a corpus belongs to no target.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io, panic};

use taskmint_fuzz::{TARGETS, Target, find};

fn main() -> io::Result<ExitCode> {
    let mut args = env::args().skip(1);
    let first = args.next().unwrap_or_default();
    if first == "--list" {
        TARGETS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    let corpora = PathBuf::from(first);
    let names: Vec<String> = args.collect();
    let mut failed = orphans(&corpora)?;
    let mut inputs = 0;
    let mut targets = 0;
    for name in names.iter().filter(|name| find(name).is_none()) {
        eprintln!("no target is called `{name}`");
        failed += 1;
    }
    for target in TARGETS
        .iter()
        .filter(|(name, _)| names.is_empty() || names.contains(&(*name).into()))
    {
        let (run, bad) = replay(&corpora, *target)?;
        inputs += run;
        failed += bad;
        targets += 1;
    }
    println!("fuzz corpora: {inputs} inputs of {targets} targets replayed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs a target over its corpus; returns how many inputs there were and how many failed.
fn replay(corpora: &Path, (name, target): Target) -> io::Result<(usize, usize)> {
    let folder = corpora.join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    files.sort();
    if files.is_empty() {
        eprintln!("{}: no input", folder.display());
        return Ok((0, 1));
    }
    let mut failed = 0;
    for file in &files {
        let data = fs::read(file)?;
        if panic::catch_unwind(|| target(&data)).is_err() {
            eprintln!("{}: `{name}` panics on it", file.display());
            failed += 1;
        }
    }
    Ok((files.len(), failed))
}

/// How many corpora there are without a target.
fn orphans(corpora: &Path) -> io::Result<usize> {
    let mut orphans = 0;
    for entry in fs::read_dir(corpora)? {
        let name = entry?.file_name();
        if find(&name.to_string_lossy()).is_none() {
            eprintln!("{}: no target of this name", corpora.join(name).display());
            orphans += 1;
        }
    }
    Ok(orphans)
}
