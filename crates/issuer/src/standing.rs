//! Whether a credential counts now, for those who ask instead of watching: by place, by token, and
//! as token status lists (P21).

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use taskmint_mint::{Request, StatusListRequest};
use taskmint_model::{Task, Timestamp};
use taskmint_status::map::{CHUNK_LEN, CHUNK_STATUSES};
use taskmint_status::{LogId, Place, Serial, Status, TaskBinding};
use taskmint_store::BucketStatus;

use crate::Issuer;
use crate::refused::{RefusalKind, Refused};

/// Statuses in the shortest list: 256 KiB before it is packed, some hundred octets after.
const SHORTEST: u64 = 1 << 20;

/// Statuses in the longest list: 64 MiB before it is packed.
const LONGEST: u64 = 1 << 28;

/// A signed list of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusList {
    /// Compact JWS, `statuslist+jwt`.
    pub token: Bytes,
    /// The same through gzip.
    pub gzip: Bytes,
    /// Tells it from all others.
    pub tag: String,
    /// Where the log stood.
    pub sequence: u64,
    /// When it was signed.
    pub at: Timestamp,
    /// When it stops counting.
    pub expires_at: Timestamp,
}

type Cell = Arc<tokio::sync::Mutex<Option<Arc<StatusList>>>>;

/// The newest list of each bucket that somebody asked for.
#[derive(Debug, Default)]
pub(crate) struct StatusLists(Mutex<HashMap<u32, Cell>>);

impl Issuer {
    /// Whether a certificate with this serial number may count now. It says nothing about who
    /// holds it: whoever asks has verified the certificate.
    ///
    /// # Errors
    /// When the store can't read.
    pub async fn is_serial_valid(&self, serial: &Serial) -> Result<bool, Refused> {
        let identity = self.store.identity();
        match serial.place_in(identity.log, self.generation()?) {
            Ok(place) => self.is_place_valid(place).await,
            Err(_) => Ok(false),
        }
    }

    /// The live task behind a verified credential, if it has one.
    ///
    /// # Errors
    /// When the store can't read.
    pub async fn live_task(&self, binding: &TaskBinding) -> Result<Option<Task>, Refused> {
        let place = binding.place;
        if !self.is_place_valid(place).await? {
            return Ok(None);
        }
        let task = self.store.task_at(place).await?;
        let is_it = |task: &Task| task.id.octets() == binding.task && task.is_live(self.now());
        Ok(task.filter(is_it))
    }

    async fn is_place_valid(&self, place: Place) -> Result<bool, Refused> {
        // Nothing reaches further ahead, so nobody was given such a place.
        let ahead = place.bucket() > self.last_bucket();
        Ok(!ahead && self.store.status(place).await? == Status::Valid)
    }

    /// The signed list of a bucket, at most a tenth of its `ttl` old.
    ///
    /// # Errors
    /// `NO_SUCH_LIST` for another log or a bucket to come, `LIST_GONE` for one that is over.
    pub async fn status_list(&self, log: LogId, bucket: u32) -> Result<Arc<StatusList>, Refused> {
        let identity = self.store.identity();
        if Some(log) == identity.replaces {
            return Err(gone());
        }
        if log != identity.log || bucket > self.last_bucket() {
            let message = "there is no such status list";
            return Err(Refused::new(RefusalKind::NotFound, "NO_SUCH_LIST", message));
        }
        let position = *self.store.position().borrow();
        if bucket < position.floor {
            return Err(gone());
        }
        let cell = self.status_lists.cell(bucket, position.floor);
        let mut newest = cell.lock().await;
        if let Some(list) = newest.as_ref()
            && self.is_fresh(list, position.sequence)
        {
            return Ok(Arc::clone(list));
        }
        let list = Arc::new(self.make_status_list(bucket).await?);
        *newest = Some(Arc::clone(&list));
        Ok(list)
    }

    fn is_fresh(&self, list: &StatusList, sequence: u64) -> bool {
        let (now, ttl) = (self.clock.now(), self.settings.status_list_ttl);
        let age = now.since(list.at);
        let tenth = age < ttl / 10;
        now >= list.at && (tenth || (list.sequence == sequence && age < ttl / 2))
    }

    async fn make_status_list(&self, bucket: u32) -> Result<StatusList, Refused> {
        let status = self.store.bucket(bucket).await?;
        if bucket < status.floor {
            return Err(gone());
        }
        let sequence = status.sequence;
        let packed = tokio::task::spawn_blocking(move || pack(&status)).await;
        let list = packed.map_err(|_| Refused::busy())??;
        let at = self.clock.now().floor_to_second();
        let expires_at = at + self.settings.status_list_lifetime;
        let request = StatusListRequest {
            log: self.store.identity().log,
            bucket,
            list,
            at,
            expires_at,
            ttl_secs: self.settings.status_list_ttl.as_secs().max(1),
            certificate: self.log_key_certificate().await?,
        };
        let signed = self.sign(Request::StatusList(request)).await?;
        let token = Bytes::from(signed.bytes);
        let plain = token.clone();
        let zipped = tokio::task::spawn_blocking(move || zip(&plain)).await;
        Ok(StatusList {
            tag: tag(&token),
            gzip: zipped.map_err(|_| Refused::busy())??,
            token,
            sequence,
            at,
            expires_at,
        })
    }

    /// The last bucket in which a place can lie.
    fn last_bucket(&self) -> u32 {
        let settings = &self.settings;
        let ahead = settings.defaults.max_limit.max(settings.node_ttl);
        (self.clock.now() + ahead.max(settings.server_ttl) + Duration::from_secs(60)).hour()
    }
}

impl StatusLists {
    fn cell(&self, bucket: u32, floor: u32) -> Cell {
        let mut cells = self.0.lock();
        cells.retain(|bucket, _| *bucket >= floor);
        Arc::clone(cells.entry(bucket).or_default())
    }
}

/// Names what is served: an HTTP entity tag.
pub(crate) fn tag(octets: &[u8]) -> String {
    let hash = Sha256::digest(octets);
    hex::encode(hash.get(..16).unwrap_or_default())
}

fn gone() -> Refused {
    Refused::new(
        RefusalKind::State,
        "LIST_GONE",
        "nothing of that time counts any more",
    )
}

/// The statuses as one zlib stream. Twice as many as can have been handed out: a copy that is in
/// use must know the places of tasks that begin meanwhile.
fn pack(status: &BucketStatus) -> Result<Vec<u8>, Refused> {
    let length = status
        .reserved
        .saturating_mul(2)
        .next_power_of_two()
        .max(SHORTEST);
    if length > LONGEST {
        let message = "the bucket has too many tasks for a status list";
        return Err(Refused::new(
            RefusalKind::Exhausted,
            "LIST_TOO_LONG",
            message,
        ));
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let zeros = [0; CHUNK_LEN];
    let mut chunks = status.map.chunks().peekable();
    for number in 0..length / CHUNK_STATUSES {
        let octets = match chunks.next_if(|(at, _)| u64::from(*at) == number) {
            Some((_, chunk)) => chunk.as_bytes(),
            None => &zeros,
        };
        encoder.write_all(octets).map_err(failed)?;
    }
    encoder.finish().map_err(failed)
}

/// Its base64 costs a third, and this gets it back.
fn zip(token: &[u8]) -> Result<Bytes, Refused> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(token).map_err(failed)?;
    Ok(encoder.finish().map_err(failed)?.into())
}

fn failed(error: std::io::Error) -> Refused {
    Refused::new(RefusalKind::Internal, "FAULT", format!("packing: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use taskmint_status::StatusMap;

    use super::*;

    fn unpacked(reserved: u64, set: &[(u64, Status)]) -> Vec<u8> {
        let mut map = StatusMap::new();
        for (index, status) in set {
            map.set(*index, *status).unwrap();
        }
        let status = BucketStatus {
            sequence: 1,
            floor: 0,
            reserved,
            map,
        };
        let mut octets = Vec::new();
        let packed = pack(&status).unwrap();
        let mut decoder = flate2::read::ZlibDecoder::new(&packed[..]);
        decoder.read_to_end(&mut octets).unwrap();
        octets
    }

    #[test]
    fn a_list_says_what_the_map_says_index_by_index() {
        let set = [
            (0, Status::Ended),
            (5, Status::Suspended),
            (40_000, Status::Ended),
            (1_048_575, Status::Suspended),
        ];
        let octets = unpacked(8_192, &set);
        assert_eq!(octets.len(), 1 << 18);
        let get = |index: usize| octets[index / 4] >> (index % 4 * 2) & 3;
        for (index, status) in set {
            assert_eq!(get(index as usize), status.bits());
        }
        let others = octets.iter().map(|octet| octet.count_ones()).sum::<u32>();
        assert_eq!(others, 4);
    }

    #[test]
    fn a_list_knows_the_places_of_tasks_to_come() {
        assert_eq!(unpacked(0, &[]).len() * 4, 1 << 20);
        assert_eq!(unpacked(600_000, &[]).len() * 4, 1 << 21);
        let status = BucketStatus {
            sequence: 1,
            floor: 0,
            reserved: LONGEST,
            map: StatusMap::new(),
        };
        assert_eq!(pack(&status).unwrap_err().reason, "LIST_TOO_LONG");
    }
}
