//! Registration entries.

mod fields;
mod file;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use taskmint_client::Admin;
use taskmint_wire::admin;

use crate::context::{Context, spiffe_id};
use crate::exit::{FAILED, Failure};
use crate::output::{Column, Field, Record};

use fields::Fields;

/// Entries of one call.
const PAGE: usize = 1000;

/// `taskmint entry`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create entries: one from flags, or many from a file.
    Create(Create),
    /// Change an entry: what is not given stays. A list that is given replaces the old one.
    Update(Update),
    /// Delete an entry and revoke its tasks.
    Delete(Delete),
    /// Show one entry.
    Show {
        /// Its id.
        id: String,
    },
    /// List entries.
    List(List),
}

/// `taskmint entry create`.
#[derive(Args, Debug)]
pub struct Create {
    /// A TOML or JSON file: one entry, or several as `entries`. Names are those of `entry show
    /// -o json`; lifetimes may be written as `x509_ttl = "10m"`.
    #[arg(long, short, value_name = "FILE", conflicts_with = "fields")]
    file: Option<PathBuf>,
    #[command(flatten)]
    fields: Fields,
}

/// `taskmint entry update`.
#[derive(Args, Debug)]
pub struct Update {
    /// Its id.
    id: String,
    #[command(flatten)]
    fields: Fields,
}

/// `taskmint entry delete`.
#[derive(Args, Debug)]
pub struct Delete {
    /// Its id.
    id: String,
    /// Leave its tasks running.
    #[arg(long)]
    keep_tasks: bool,
}

/// `taskmint entry list`.
#[derive(Args, Debug)]
pub struct List {
    /// Only with this SPIFFE ID: whole, or the path alone.
    #[arg(long, default_value = "", hide_default_value = true)]
    spiffe_id: String,
    /// Only those that count on this node alone.
    #[arg(long, default_value = "", hide_default_value = true)]
    parent_id: String,
    /// Only those with this selector.
    #[arg(long, default_value = "", hide_default_value = true)]
    selector: String,
}

const COLUMNS: &[Column] = &[
    ("ID", "id"),
    ("SPIFFE ID", "spiffe_id"),
    ("SELECTORS", "selectors"),
    ("OWNER", "owner"),
    ("IMPLICIT", "implicit"),
    ("REVISION", "revision"),
];

const RESULTS: &[Column] = &[
    ("ID", "id"),
    ("SPIFFE ID", "spiffe_id"),
    ("REASON", "reason"),
    ("MESSAGE", "message"),
];

impl Command {
    pub(crate) async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.execute(context).await,
            Self::Update(update) => {
                let mut admin = context.admin().await?;
                let request = admin::GetEntryRequest { id: update.id };
                let mut entry = admin.get_entry(request).await?.into_inner();
                update.fields.apply(&mut entry);
                complete_ids(&mut admin, &mut entry).await?;
                let request = admin::UpdateEntryRequest { entry: Some(entry) };
                let updated = admin.update_entry(request).await?.into_inner();
                context.out.one(&record(&updated))
            }
            Self::Delete(Delete { id, keep_tasks }) => {
                let request = admin::DeleteEntryRequest {
                    id: id.clone(),
                    keep_tasks,
                };
                let deleted = context
                    .admin()
                    .await?
                    .delete_entry(request)
                    .await?
                    .into_inner();
                let deleted = Record::new()
                    .text("deleted", id)
                    .number("tasks_ended", deleted.tasks_ended);
                context.out.one(&deleted)
            }
            Self::Show { id } => {
                let request = admin::GetEntryRequest { id };
                let entry = context
                    .admin()
                    .await?
                    .get_entry(request)
                    .await?
                    .into_inner();
                context.out.one(&record(&entry))
            }
            Self::List(list) => list.execute(context).await,
        }
    }
}

impl Create {
    async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let entries = match &self.file {
            Some(file) => file::read(file)?,
            None => vec![self.fields.entry()?],
        };
        let mut admin = context.admin().await?;
        let results = create(&mut admin, entries).await?;
        // One from flags is shown whole, or fails as any other call.
        if let (None, [(wire, result)]) = (&self.file, results.as_slice()) {
            return match &result.entry {
                Some(entry) => context.out.one(&record(entry)),
                None => Err(refused(wire, result)),
            };
        }
        let records: Vec<_> = results
            .iter()
            .map(|(wire, result)| outcome(wire, result))
            .collect();
        context.out.list(RESULTS, &records)?;
        let failed = results.iter().any(|(_, result)| result.entry.is_none());
        if failed {
            Err(Failure::Silent(FAILED))
        } else {
            Ok(())
        }
    }
}

impl List {
    async fn execute(self, context: &mut Context) -> Result<(), Failure> {
        let mut admin = context.admin().await?;
        let spiffe_id = spiffe_id(&mut admin, self.spiffe_id).await?;
        let request = admin::ListEntriesRequest {
            spiffe_id,
            parent_id: self.parent_id,
            selector: self.selector,
            ..Default::default()
        };
        let records: Vec<_> = list(&mut admin, request)
            .await?
            .iter()
            .map(record)
            .collect();
        context.out.list(COLUMNS, &records)
    }
}

type Outcome = admin::create_entries_response::Result;

/// Creates all of them, a page at a time; each answer beside what was asked for.
pub(crate) async fn create(
    admin: &mut Admin,
    mut entries: Vec<admin::Entry>,
) -> Result<Vec<(admin::Entry, Outcome)>, Failure> {
    for entry in &mut entries {
        complete_ids(admin, entry).await?;
    }
    let mut results = Vec::with_capacity(entries.len());
    for page in entries.chunks(PAGE) {
        let request = admin::CreateEntriesRequest {
            entries: page.to_vec(),
        };
        let answered = admin.create_entries(request).await?.into_inner().results;
        results.extend(page.iter().cloned().zip(answered));
    }
    Ok(results)
}

/// All entries that match.
pub(crate) async fn list(
    admin: &mut Admin,
    mut request: admin::ListEntriesRequest,
) -> Result<Vec<admin::Entry>, Failure> {
    request.page_size = u32::try_from(PAGE).unwrap_or(u32::MAX);
    let mut entries = Vec::new();
    loop {
        let page = admin.list_entries(request.clone()).await?.into_inner();
        entries.extend(page.entries);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(entries);
        }
    }
}

/// Paths alone become ids of the server's trust domain.
async fn complete_ids(admin: &mut Admin, entry: &mut admin::Entry) -> Result<(), Failure> {
    entry.spiffe_id = spiffe_id(admin, std::mem::take(&mut entry.spiffe_id)).await?;
    entry.parent_id = spiffe_id(admin, std::mem::take(&mut entry.parent_id)).await?;
    Ok(())
}

fn refused(wire: &admin::Entry, result: &Outcome) -> Failure {
    let code = match result.reason.as_str() {
        "NOT_GRANTED" => tonic::Code::PermissionDenied,
        "ENTRY_EXISTS" => tonic::Code::AlreadyExists,
        _ => tonic::Code::InvalidArgument,
    };
    let what = if wire.spiffe_id.is_empty() {
        "the entry"
    } else {
        &wire.spiffe_id
    };
    taskmint_client::CallError {
        code,
        reason: Some(result.reason.clone()),
        message: format!("{what} is refused: {}", result.message),
        fix: None,
        denial: None,
        facts: None,
        retry_after: None,
    }
    .into()
}

fn outcome(wire: &admin::Entry, result: &Outcome) -> Record {
    let id = result
        .entry
        .as_ref()
        .map(|entry| entry.id.clone())
        .unwrap_or_default();
    Record::new()
        .text("id", id)
        .text("spiffe_id", &wire.spiffe_id)
        .text("reason", &result.reason)
        .text("message", &result.message)
}

fn record(entry: &admin::Entry) -> Record {
    let labels = entry.labels.clone().into_iter().collect();
    Record::new()
        .text("id", &entry.id)
        .number("revision", entry.revision)
        .text("parent_id", &entry.parent_id)
        .list("parent_selectors", &entry.parent_selectors)
        .text("spiffe_id", &entry.spiffe_id)
        .list("selectors", &entry.selectors)
        .lifetime("x509_ttl", entry.x509_ttl_ms)
        .lifetime("jwt_ttl", entry.jwt_ttl_ms)
        .text("key_type", &entry.key_type)
        .list("dns_names", &entry.dns_names)
        .text("hint", &entry.hint)
        .list("federates_with", &entry.federates_with)
        .flag("downstream", entry.downstream)
        .text("owner", &entry.owner)
        .text("class", &entry.class)
        .list("scopes", &entry.scopes)
        .list("audiences", &entry.audiences)
        .flag("implicit", entry.implicit)
        .flag("descendants", entry.descendants)
        .flag("watch", entry.watch)
        .flag("crl", entry.crl)
        .lifetime("max_limit", entry.max_limit_ms)
        .number("max_children", entry.max_children)
        .number("max_depth", entry.max_depth)
        .instant("expires_at", entry.expires_at_ms)
        .with("labels", Field::Map(labels))
        .text("created_by", &entry.created_by)
        .instant("created_at", entry.created_at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> admin::Entry {
        admin::Entry {
            id: "0198c0de-0000-7000-8000-000000000001".to_owned(),
            revision: 3,
            spiffe_id: "spiffe://example.org/a".to_owned(),
            selectors: vec!["unix:uid:0".to_owned()],
            x509_ttl_ms: 600_000,
            implicit: true,
            expires_at_ms: 1_700_000_000_000,
            labels: [("team".to_owned(), "blue".to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_entry_has_its_shape() {
        let json = record(&entry()).json();
        assert_eq!(json["revision"], 3);
        assert_eq!(json["x509_ttl_ms"], 600_000);
        assert!(json["jwt_ttl_ms"].is_null());
        assert_eq!(json["labels"]["team"], "blue");
        assert_eq!(json["expires_at"], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn what_is_shown_can_be_created() {
        let json = record(&entry()).json().to_string();
        let read = file::parse(&json, true).unwrap();
        let expected = entry();
        assert_eq!(read, [expected]);
    }

    #[test]
    fn outcomes_of_many_tell_each_its_reason() {
        let result = Outcome {
            reason: "BAD_ENTRY".to_owned(),
            message: "why".to_owned(),
            entry: None,
        };
        let json = outcome(&entry(), &result).json();
        assert_eq!(
            (&json["reason"], &json["message"]),
            (&"BAD_ENTRY".into(), &"why".into())
        );
        assert!(json["id"].is_null());
        assert_eq!(refused(&entry(), &result).code(), crate::exit::USAGE);
    }
}
