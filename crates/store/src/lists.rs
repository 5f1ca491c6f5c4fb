//! Reading for those who don't watch: certificates for CRLs (P22), maps for status lists (P21).

use std::collections::BTreeMap;

use async_trait::async_trait;
use taskmint_model::{CredentialKind, Issuance, State, Task, Timestamp};
use taskmint_status::{Place, StatusMap};

use crate::port::StoreError;
use crate::read::{Rows, ledger};
use crate::rows::{self, Key, Row, View, misplaced, span};

/// Reading what lists are made of. Everything of one call is of one instant.
#[async_trait]
pub trait Lists: Send + Sync + 'static {
    /// Certificates that count at `from` or later, of tasks that are not live: of those at these
    /// places, or of all. The latter reads every task; it is for a start.
    async fn withdrawn(
        &self,
        places: Option<Vec<Place>>,
        from: Timestamp,
    ) -> Result<Vec<Withdrawn>, StoreError>;

    /// The statuses of one bucket.
    async fn bucket(&self, bucket: u32) -> Result<BucketStatus, StoreError>;
}

/// A certificate of a task that is suspended or has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    /// The certificate's record.
    pub issuance: Issuance,
    /// What became of its task; never live.
    pub state: State,
}

/// The statuses of one bucket at one position of the log.
#[derive(Debug, Clone)]
pub struct BucketStatus {
    /// Where the log stood.
    pub sequence: u64,
    /// Buckets below this hour are gone.
    pub floor: u32,
    /// First index that can't have been handed out yet.
    pub reserved: u64,
    /// What is not valid.
    pub map: StatusMap,
}

#[async_trait]
impl<T: Rows> Lists for T {
    async fn withdrawn(
        &self,
        places: Option<Vec<Place>>,
        from: Timestamp,
    ) -> Result<Vec<Withdrawn>, StoreError> {
        self.read(move |view| match places {
            Some(places) => of_places(view, places, from),
            None => of_all(view, from),
        })
        .await
    }

    async fn bucket(&self, bucket: u32) -> Result<BucketStatus, StoreError> {
        self.read(move |view| bucket_status(view, bucket)).await
    }
}

fn of_places(
    view: &dyn View,
    places: Vec<Place>,
    from: Timestamp,
) -> Result<Vec<Withdrawn>, StoreError> {
    let mut found = Vec::new();
    for place in places {
        if let Some(task) = rows::task(view, &Key::Task(place.slot()))?
            && task.place == place
        {
            certificates(view, &task, from, &mut found)?;
        }
    }
    Ok(found)
}

fn of_all(view: &dyn View, from: Timestamp) -> Result<Vec<Withdrawn>, StoreError> {
    let mut found = Vec::new();
    let floor = ledger(view)?.floor;
    view.scan(span::tasks(span::first(floor)), &mut |key, row| {
        let Row::Task(task) = row else {
            return Err(misplaced(&key, &row));
        };
        certificates(view, &task, from, &mut found)?;
        Ok(true)
    })?;
    Ok(found)
}

/// Nothing for a live task.
fn certificates(
    view: &dyn View,
    task: &Task,
    from: Timestamp,
    found: &mut Vec<Withdrawn>,
) -> Result<(), StoreError> {
    if task.state == State::Live {
        return Ok(());
    }
    view.scan(span::issuances(task.place.slot()), &mut |key, row| {
        let Row::Issuance(issuance) = row else {
            return Err(misplaced(&key, &row));
        };
        let is_certificate = issuance.kind == CredentialKind::X509Svid;
        if issuance.place == task.place && is_certificate && issuance.expires_at >= from {
            found.push(Withdrawn {
                issuance: std::sync::Arc::unwrap_or_clone(issuance),
                state: task.state.clone(),
            });
        }
        Ok(true)
    })
}

fn bucket_status(view: &dyn View, bucket: u32) -> Result<BucketStatus, StoreError> {
    let ledger = ledger(view)?;
    let mut chunks = BTreeMap::new();
    view.scan(span::map_of(bucket), &mut |key, row| match (key, row) {
        (Key::Status(_, number), Row::Status(chunk)) => {
            chunks.insert(number, std::sync::Arc::unwrap_or_clone(chunk));
            Ok(true)
        }
        (key, row) => Err(misplaced(&key, &row)),
    })?;
    Ok(BucketStatus {
        sequence: ledger.sequence,
        floor: ledger.floor,
        reserved: rows::block(view, &Key::Block(bucket))?.unwrap_or(0),
        map: StatusMap::from_chunks(chunks),
    })
}
