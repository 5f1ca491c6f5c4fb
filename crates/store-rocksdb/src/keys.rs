//! Column families and keys: big-endian, so that octets sort as [`Key`]s do.

use taskmint_model::{AuthorityId, DenialId, EntryId, Process, TaskId, Timestamp};
use taskmint_status::Slot;
use taskmint_store::{Key, StoreError};

/// Separates a SPIFFE ID from what follows it; no SPIFFE ID contains it.
const END_OF_TEXT: u8 = 0;

macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident = $name:literal;)*) => {
        /// A column family.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Table { $($(#[$doc])* $table,)* }

        impl Table {
            /// All of them.
            pub(crate) const ALL: [Self; [$($name),*].len()] = [$(Self::$table),*];

            /// Its name on disk.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$table => $name,)* }
            }
        }
    };
}

tables! {
    /// Schema, identity, ledger.
    Meta = "meta";
    /// bucket.
    Block = "block";
    /// bucket, index.
    Task = "task";
    /// task id.
    TaskId = "task_id";
    /// Parent's bucket, index, child's bucket, index.
    Child = "child";
    /// bucket, index, number.
    Issuance = "issuance";
    /// bucket, chunk.
    Status = "status";
    /// sequence.
    Log = "log";
    /// SHA-256 of the request's name.
    Request = "request";
    /// entry id.
    Entry = "entry";
    /// SPIFFE ID.
    Node = "node";
    /// SHA-256 of the token.
    Token = "token";
    /// Node's SPIFFE ID, zero, entry id, pid, start time, boot id.
    Bar = "bar";
    /// number.
    Denial = "denial";
    /// denial id.
    DenialId = "denial_id";
    /// number.
    Audit = "audit";
    /// authority id.
    Authority = "authority";
    /// bucket, deadline, index.
    Due = "due";
    /// Holder's SPIFFE ID or nothing, zero, task id.
    Held = "held";
    /// bucket.
    Live = "live";
}

impl Table {
    /// Whether its keys begin with the bucket that they are swept with.
    pub(crate) fn is_swept(self) -> bool {
        matches!(
            self,
            Self::Block
                | Self::Task
                | Self::Child
                | Self::Issuance
                | Self::Status
                | Self::Due
                | Self::Live
        )
    }

    /// Whether its rows expire with a bucket that their keys don't name.
    pub(crate) fn is_found_by_id(self) -> bool {
        matches!(self, Self::TaskId | Self::Request | Self::Held)
    }
}

/// Where a row lies.
pub(crate) fn encode(key: &Key) -> (Table, Vec<u8>) {
    let mut octets = Vec::with_capacity(32);
    let table = match key {
        Key::Ledger => put(Table::Meta, &mut octets, &[b"ledger"]),
        Key::Block(bucket) => put(Table::Block, &mut octets, &[&bucket.to_be_bytes()]),
        Key::Task(at) => put(Table::Task, &mut octets, &[&slot(*at)]),
        Key::TaskId(id) => put(Table::TaskId, &mut octets, &[&id.octets()]),
        Key::Child(parent, at) => put(Table::Child, &mut octets, &[&slot(*parent), &slot(*at)]),
        Key::Issuance(at, number) => put(
            Table::Issuance,
            &mut octets,
            &[&slot(*at), &number.to_be_bytes()],
        ),
        Key::Status(bucket, chunk) => put(
            Table::Status,
            &mut octets,
            &[&bucket.to_be_bytes(), &chunk.to_be_bytes()],
        ),
        Key::Log(sequence) => put(Table::Log, &mut octets, &[&sequence.to_be_bytes()]),
        Key::Request(hash) => put(Table::Request, &mut octets, &[hash]),
        Key::Entry(id) => put(Table::Entry, &mut octets, &[&id.octets()]),
        Key::Node(id) => put(Table::Node, &mut octets, &[id.as_bytes()]),
        Key::Token(hash) => put(Table::Token, &mut octets, &[hash]),
        Key::Bar(node, entry, process) => {
            let Process {
                pid,
                start_time,
                boot_id,
            } = process;
            let process = [&pid.to_be_bytes()[..], &start_time.to_be_bytes(), boot_id];
            let node = [node.as_bytes(), &[END_OF_TEXT], &entry.octets()];
            put(Table::Bar, &mut octets, &node);
            put(Table::Bar, &mut octets, &process)
        }
        Key::Denial(number) => put(Table::Denial, &mut octets, &[&number.to_be_bytes()]),
        Key::DenialId(id) => put(Table::DenialId, &mut octets, &[&id.octets()]),
        Key::Audit(number) => put(Table::Audit, &mut octets, &[&number.to_be_bytes()]),
        Key::Authority(id) => put(Table::Authority, &mut octets, &[&id.octets()]),
        Key::Due(bucket, at, index) => {
            let (bucket, at) = (bucket.to_be_bytes(), at.millis().to_be_bytes());
            put(
                Table::Due,
                &mut octets,
                &[&bucket, &at, &index.to_be_bytes()],
            )
        }
        Key::Held(by, id) => put(
            Table::Held,
            &mut octets,
            &[by.as_bytes(), &[END_OF_TEXT], &id.octets()],
        ),
        Key::Live(bucket) => put(Table::Live, &mut octets, &[&bucket.to_be_bytes()]),
    };
    (table, octets)
}

/// Reads a key of a table that is scanned.
pub(crate) fn decode(table: Table, octets: &[u8]) -> Result<Key, StoreError> {
    let mut rest = Rest(octets);
    let key = read(table, &mut rest).filter(|_| rest.0.is_empty());
    key.ok_or_else(|| {
        StoreError::Damaged(format!("{} has a key of {} octets", table.name(), octets.len()).into())
    })
}

fn put(table: Table, into: &mut Vec<u8>, parts: &[&[u8]]) -> Table {
    for part in parts {
        into.extend_from_slice(part);
    }
    table
}

fn slot(slot: Slot) -> [u8; 12] {
    let mut octets = [0; 12];
    let (bucket, index) = octets.split_at_mut(4);
    bucket.copy_from_slice(&slot.bucket().to_be_bytes());
    index.copy_from_slice(&slot.index().to_be_bytes());
    octets
}

fn read(table: Table, rest: &mut Rest<'_>) -> Option<Key> {
    Some(match table {
        Table::Meta => return None,
        Table::Block => Key::Block(rest.u32()?),
        Table::Task => Key::Task(rest.slot()?),
        Table::TaskId => Key::TaskId(TaskId::from_octets(rest.array()?)),
        Table::Child => Key::Child(rest.slot()?, rest.slot()?),
        Table::Issuance => Key::Issuance(rest.slot()?, rest.u64()?),
        Table::Status => Key::Status(rest.u32()?, rest.u32()?),
        Table::Log => Key::Log(rest.u64()?),
        Table::Request => Key::Request(rest.array()?),
        Table::Entry => Key::Entry(EntryId::from_octets(rest.array()?)),
        Table::Node => Key::Node(rest.text(rest.0.len())?),
        Table::Token => Key::Token(rest.array()?),
        Table::Bar => {
            let node = rest.text(rest.0.iter().position(|octet| *octet == END_OF_TEXT)?)?;
            rest.array::<1>()?;
            let entry = EntryId::from_octets(rest.array()?);
            let (pid, start_time, boot_id) = (rest.u32()?, rest.u64()?, rest.array()?);
            Key::Bar(
                node,
                entry,
                Process {
                    pid,
                    start_time,
                    boot_id,
                },
            )
        }
        Table::Denial => Key::Denial(rest.u64()?),
        Table::DenialId => Key::DenialId(DenialId::from_octets(rest.array()?)),
        Table::Audit => Key::Audit(rest.u64()?),
        Table::Authority => Key::Authority(AuthorityId::from_octets(rest.array()?)),
        Table::Due => {
            let (bucket, at) = (rest.u32()?, rest.u64()?);
            Key::Due(bucket, Timestamp::from_millis(at), rest.u64()?)
        }
        Table::Held => {
            let by = rest.text(rest.0.iter().position(|octet| *octet == END_OF_TEXT)?)?;
            rest.array::<1>()?;
            Key::Held(by, TaskId::from_octets(rest.array()?))
        }
        Table::Live => Key::Live(rest.u32()?),
    })
}

/// What is left of a key.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn slot(&mut self) -> Option<Slot> {
        Slot::new(self.u32()?, self.u64()?).ok()
    }

    fn text(&mut self, len: usize) -> Option<String> {
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use taskmint_status::place::MAX_INDEX;

    fn keys() -> impl Strategy<Value = Key> {
        let slots = || {
            let bucket = prop_oneof![0..3_u32, any::<u32>()];
            let index = prop_oneof![0..300_u64, 0..=MAX_INDEX];
            (bucket, index).prop_map(|(bucket, index)| Slot::new(bucket, index).unwrap())
        };
        let names = || "spiffe://[a-c.]{1,3}/[a-c/]{0,3}";
        let process = (any::<u32>(), any::<u64>(), any::<[u8; 16]>()).prop_map(
            |(pid, start_time, boot_id)| Process {
                pid,
                start_time,
                boot_id,
            },
        );
        prop_oneof![
            any::<u32>().prop_map(Key::Block),
            slots().prop_map(Key::Task),
            any::<[u8; 16]>().prop_map(|id| Key::TaskId(TaskId::from_octets(id))),
            (slots(), slots()).prop_map(|(parent, child)| Key::Child(parent, child)),
            (slots(), any::<u64>()).prop_map(|(at, number)| Key::Issuance(at, number)),
            (any::<u32>(), any::<u32>()).prop_map(|(bucket, chunk)| Key::Status(bucket, chunk)),
            any::<u64>().prop_map(Key::Log),
            any::<[u8; 32]>().prop_map(Key::Request),
            any::<[u8; 16]>().prop_map(|id| Key::Entry(EntryId::from_octets(id))),
            names().prop_map(Key::Node),
            any::<[u8; 32]>().prop_map(Key::Token),
            (names(), any::<[u8; 16]>(), process).prop_map(|(node, entry, process)| Key::Bar(
                node,
                EntryId::from_octets(entry),
                process
            )),
            any::<u64>().prop_map(Key::Denial),
            any::<[u8; 16]>().prop_map(|id| Key::DenialId(DenialId::from_octets(id))),
            any::<u64>().prop_map(Key::Audit),
            any::<[u8; 16]>().prop_map(|id| Key::Authority(AuthorityId::from_octets(id))),
            (any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(bucket, at, index)| Key::Due(
                bucket,
                Timestamp::from_millis(at),
                index
            )),
            (prop_oneof![Just(String::new()), names()], any::<[u8; 16]>())
                .prop_map(|(by, id)| Key::Held(by, TaskId::from_octets(id))),
            any::<u32>().prop_map(Key::Live),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn every_key_comes_back(key in keys()) {
            let (table, octets) = encode(&key);
            prop_assert_eq!(decode(table, &octets).unwrap(), key);
        }

        #[test]
        fn octets_sort_as_keys_do(one in keys(), two in keys()) {
            let ((table, octets), (other_table, other)) = (encode(&one), encode(&two));
            if table == other_table {
                prop_assert_eq!(octets.cmp(&other), one.cmp(&two));
            }
        }

        #[test]
        fn swept_keys_begin_with_their_bucket(key in keys()) {
            let (table, octets) = encode(&key);
            prop_assert_eq!(table.is_swept(), key.bucket().is_some());
            if let Some(bucket) = key.bucket() {
                prop_assert_eq!(&octets[..4], bucket.to_be_bytes());
            }
        }

        #[test]
        fn arbitrary_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..80)) {
            for table in Table::ALL {
                decode(table, &octets).ok();
            }
        }
    }
}
