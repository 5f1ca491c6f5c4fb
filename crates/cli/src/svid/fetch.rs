//! SVIDs from the Workload API.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use taskmint_client::{X509Context, X509Svid};
use taskmint_id::SpiffeId;
use zeroize::Zeroizing;

use super::pem::{self, pem, remove_if_there};
use super::read::Svid;
use super::show;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Column, Record};

const X509: &[Column] = &[
    ("SPIFFE ID", "spiffe_id"),
    ("TASK", "task_id"),
    ("EXPIRES", "not_after"),
    ("HINT", "hint"),
];

/// Fetches X.509-SVIDs; the keys go to files or nowhere.
pub(super) async fn x509(context: &mut Context, write: Option<PathBuf>) -> Result<(), Failure> {
    let fetched = context.workload().await?.x509_context().await?;
    if let Some(folder) = &write {
        write_all(folder, &fetched)
            .with_context(|| format!("cannot write to `{}`", folder.display()))?;
    }
    let records: Result<Vec<_>, Failure> = fetched.svids.iter().map(record).collect();
    context.out.list(X509, &records?)
}

/// Fetches tokens; for people nothing but the tokens, a line each.
pub(super) async fn jwt(
    context: &mut Context,
    audiences: &[String],
    spiffe_id: Option<String>,
) -> Result<(), Failure> {
    let spiffe_id = spiffe_id.map(|text| SpiffeId::parse(&text));
    let spiffe_id = spiffe_id
        .transpose()
        .map_err(|error| Failure::usage(error.to_string()))?;
    let api = context.workload().await?;
    let svids = api.jwt_svids(audiences, spiffe_id.as_ref()).await?;
    if !context.out.is_json() {
        let lines: String = svids
            .iter()
            .map(|svid| format!("{}\n", svid.token))
            .collect();
        return context.out.text(&lines);
    }
    let records: Result<Vec<_>, Failure> = svids
        .iter()
        .map(|svid| {
            let shown = show::record(&Svid::Jwt(svid.token.clone()))?;
            Ok(shown.text("hint", &svid.hint).text("token", &svid.token))
        })
        .collect();
    context.out.list(&[], &records?)
}

fn record(svid: &X509Svid) -> Result<Record, Failure> {
    let shown = show::record(&Svid::X509(svid.chain.clone()))?;
    Ok(shown.text("hint", &svid.hint))
}

fn write_all(folder: &Path, fetched: &X509Context) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (index, svid) in fetched.svids.iter().enumerate() {
        let key = Zeroizing::new(pem("PRIVATE KEY", &svid.key)?);
        write_file(
            &folder.join(format!("svid.{index}.key")),
            key.as_bytes(),
            0o600,
        )?;
        write_file(
            &folder.join(format!("svid.{index}.pem")),
            pem::chain(svid)?.as_bytes(),
            0o644,
        )?;
        write_file(
            &folder.join(format!("bundle.{index}.pem")),
            pem::authorities(svid, fetched)?.as_bytes(),
            0o644,
        )?;
    }
    Ok(())
}

/// Whole or not at all: a reader must not see half a key.
fn write_file(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let new = path.with_extension("new");
    // A file that is left over may have another mode.
    remove_if_there(&new)?;
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(bytes)?;
    drop(file);
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_written_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("svid.0.key");
        std::fs::write(path.with_extension("new"), "left over").unwrap();
        write_file(&path, b"key", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"key");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
