//! Entries: who gets an identity, where, and with which authority.

use taskmint_config::Verb;
use taskmint_id::SpiffeId;
use taskmint_model::EntryId;
use taskmint_wire::{
    BadField, admin, entry_from_wire, entry_to_wire, field, optional, selectors_from_wire,
};
use tonic::{Code, Request, Response, Status};

use super::{AdminService, MAX_ENTRIES, page};
use crate::admin_access::Access;
use crate::refusal::{deny, status};

impl AdminService {
    pub(super) async fn create_entries(
        &self,
        request: Request<admin::CreateEntriesRequest>,
    ) -> Result<Response<admin::CreateEntriesResponse>, Status> {
        let access = self.access(&request)?;
        let entries = request.into_inner().entries;
        if entries.is_empty() || entries.len() > MAX_ENTRIES {
            let why = format!("must hold 1 to {MAX_ENTRIES} entries");
            return Err(BadField::new("entries", why).into());
        }
        // Side by side, so that one synced write serves many.
        let mut running = Vec::with_capacity(entries.len());
        for entry in entries {
            let (service, access) = (self.clone(), access.clone());
            running.push(tokio::spawn(async move {
                service.create_entry(&access, entry).await
            }));
        }
        let mut results = Vec::with_capacity(running.len());
        for created in running {
            results.push(
                created
                    .await
                    .map_err(|_| deny(Code::Internal, "FAULT", "a fault of ours"))?,
            );
        }
        Ok(Response::new(admin::CreateEntriesResponse { results }))
    }

    pub(super) async fn update_entry(
        &self,
        request: Request<admin::UpdateEntryRequest>,
    ) -> Result<Response<admin::Entry>, Status> {
        let access = self.access(&request)?;
        let wire = request
            .into_inner()
            .entry
            .ok_or_else(|| BadField::new("entry", "is missing"))?;
        let id: EntryId = field("entry.id", &wire.id)?;
        let entry = entry_from_wire(&wire, id)?;
        access.check(Verb::Register, Some(&entry.spiffe_id))?;
        if let Some(old) = self.issuer.entry(id) {
            access.check(Verb::Register, Some(&old.spiffe_id))?;
        }
        let updated = self
            .issuer
            .update_entry(&access.principal, entry)
            .await
            .map_err(status)?;
        Ok(Response::new(entry_to_wire(&updated)))
    }

    pub(super) async fn delete_entry(
        &self,
        request: Request<admin::DeleteEntryRequest>,
    ) -> Result<Response<admin::DeleteEntryResponse>, Status> {
        let access = self.access(&request)?;
        let ask = request.into_inner();
        let id: EntryId = field("id", &ask.id)?;
        let spiffe_id = self.issuer.entry(id).map(|entry| entry.spiffe_id.clone());
        access.check(Verb::Register, spiffe_id.as_ref())?;
        let tasks_ended = self
            .issuer
            .delete_entry(&access.principal, id, ask.keep_tasks)
            .await
            .map_err(status)?;
        Ok(Response::new(admin::DeleteEntryResponse { tasks_ended }))
    }

    pub(super) async fn get_entry(
        &self,
        request: Request<admin::GetEntryRequest>,
    ) -> Result<Response<admin::Entry>, Status> {
        let access = self.access(&request)?;
        let id: EntryId = field("id", &request.get_ref().id)?;
        let found = self
            .issuer
            .entry(id)
            .filter(|e| access.may(Verb::Read, &e.spiffe_id));
        let entry = found.ok_or_else(|| deny(Code::NotFound, "NO_SUCH_ENTRY", "no such entry"))?;
        Ok(Response::new(entry_to_wire(&entry)))
    }

    pub(super) async fn list_entries(
        &self,
        request: Request<admin::ListEntriesRequest>,
    ) -> Result<Response<admin::ListEntriesResponse>, Status> {
        let access = self.access(&request)?;
        let ask = request.into_inner();
        let after: Option<EntryId> = optional("page_token", &ask.page_token)?;
        let parent: Option<SpiffeId> = optional("parent_id", &ask.parent_id)?;
        let wanted = selectors_from_wire("selector", &some(&ask.selector))?;
        let size = page::size(ask.page_size);
        let matches = |entry: &taskmint_model::Entry| {
            let on = |id: &SpiffeId| entry.parent == taskmint_model::NodeMatch::Node(id.clone());
            after.is_none_or(|after| entry.id > after)
                && (ask.spiffe_id.is_empty() || entry.spiffe_id.as_str() == ask.spiffe_id)
                && parent.as_ref().is_none_or(on)
                && wanted.is_subset(&entry.selectors)
                && access.may(Verb::Read, &entry.spiffe_id)
        };
        let all = self.issuer.all_entries();
        let mut entries: Vec<_> = all
            .iter()
            .filter(|e| matches(e))
            .take(size + 1)
            .map(|e| entry_to_wire(e))
            .collect();
        let more = entries.len() > size;
        entries.truncate(size);
        let last = entries
            .last()
            .filter(|_| more)
            .map(|entry| entry.id.clone());
        let next_page_token = last.unwrap_or_default();
        Ok(Response::new(admin::ListEntriesResponse {
            entries,
            next_page_token,
        }))
    }

    async fn create_entry(
        &self,
        access: &Access,
        wire: admin::Entry,
    ) -> admin::create_entries_response::Result {
        let refused = |reason: &str, message: String| admin::create_entries_response::Result {
            entry: None,
            reason: reason.to_owned(),
            message,
        };
        let entry = match entry_from_wire(&wire, EntryId::from_octets([0; 16])) {
            Ok(entry) => entry,
            Err(bad) => return refused("BAD_FIELD", bad.to_string()),
        };
        if let Err(status) = access.check(Verb::Register, Some(&entry.spiffe_id)) {
            return refused("NOT_GRANTED", status.message().to_owned());
        }
        match self.issuer.create_entry(&access.principal, entry).await {
            Ok(entry) => admin::create_entries_response::Result {
                entry: Some(entry_to_wire(&entry)),
                ..Default::default()
            },
            Err(error) => refused(error.reason, error.message),
        }
    }
}

fn some(text: &str) -> Vec<String> {
    if text.is_empty() {
        Vec::new()
    } else {
        vec![text.to_owned()]
    }
}
