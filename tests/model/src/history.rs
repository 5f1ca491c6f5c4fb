//! What a log says: records, positions in it, and the statuses that follow from them.

/// A bucket: the model has an hour that passes and one that lasts.
pub type Bucket = u8;

/// The hours there are.
pub const BUCKETS: [Bucket; 2] = [0, 1];

/// The log generations there are: the first, and the one that a restore begins.
pub const GENERATIONS: [u8; 2] = [1, 2];

/// A status place. The log is named by its generation; each hour has one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Of which log.
    pub generation: u8,
    /// In which hour.
    pub bucket: Bucket,
}

impl Place {
    /// Every place of every log.
    pub fn all() -> impl Iterator<Item = Self> {
        GENERATIONS.into_iter().flat_map(|generation| {
            BUCKETS
                .into_iter()
                .map(move |bucket| Self { generation, bucket })
        })
    }
}

/// A record of the revocation log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Record {
    /// The task at this hour's place ended.
    End(Bucket),
    /// The first hour is over for everyone.
    Floor,
    /// A writer began.
    Epoch,
}

impl Record {
    /// What a relay can make up.
    pub const ALL: [Self; 4] = [Self::End(0), Self::End(1), Self::Floor, Self::Epoch];

    fn code(self) -> u32 {
        match self {
            Self::End(bucket) => u32::from(bucket),
            Self::Floor => 2,
            Self::Epoch => 3,
        }
    }

    fn of(code: u32) -> Self {
        match code & 3 {
            2 => Self::Floor,
            3 => Self::Epoch,
            bucket => Self::End(bucket as Bucket),
        }
    }
}

/// The records up to a position. It is its own hash: two are equal if and only if all records are.
///
/// Two bits a record below a one that marks the end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain(u32);

impl Chain {
    /// Before the first record.
    pub const EMPTY: Self = Self(1);

    /// The most records that fit.
    pub const MAX: u8 = 15;

    /// The newest record's sequence number.
    #[must_use]
    pub fn len(self) -> u8 {
        (self.0.ilog2() / 2) as u8
    }

    /// Whether there is no record yet.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// With one record more.
    #[must_use]
    pub fn then(self, record: Record) -> Self {
        Self(self.0 << 2 | record.code())
    }

    /// The chain as it was at an earlier position.
    #[must_use]
    pub fn prefix(self, len: u8) -> Self {
        Self(self.0 >> (2 * self.len().saturating_sub(len)))
    }

    /// Whether `later` began as this one.
    #[must_use]
    pub fn leads_to(self, later: Self) -> bool {
        self.len() <= later.len() && later.prefix(self.len()) == self
    }

    /// The record with this sequence number, from 1.
    #[must_use]
    pub fn record(self, sequence: u8) -> Option<Record> {
        (1..=self.len())
            .contains(&sequence)
            .then(|| Record::of(self.prefix(sequence).0))
    }

    /// The records from the first on.
    pub fn records(self) -> impl Iterator<Item = Record> {
        (1..=self.len()).map(move |sequence| Record::of(self.prefix(sequence).0))
    }

    /// The writer's epoch: each writes that it began before anything else.
    #[must_use]
    pub fn epoch(self) -> u8 {
        1 + self
            .records()
            .filter(|record| *record == Record::Epoch)
            .count() as u8
    }

    /// The statuses that follow.
    #[must_use]
    pub fn statuses(self) -> Statuses {
        let mut statuses = Statuses::default();
        self.records().for_each(|record| statuses.apply(record));
        statuses
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.records()).finish()
    }
}

/// The maps and the floor at a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Statuses {
    /// The lowest bucket that still counts.
    pub floor: Bucket,
    ended: [bool; 2],
}

impl Statuses {
    /// Whether the map says ended. Below the floor there is no map any more, and so it says valid.
    #[must_use]
    pub fn is_ended(self, bucket: Bucket) -> bool {
        self.ended
            .get(usize::from(bucket))
            .is_some_and(|ended| *ended)
    }

    /// What one more record makes of it.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::End(bucket) if bucket >= self.floor => {
                if let Some(ended) = self.ended.get_mut(usize::from(bucket)) {
                    *ended = true;
                }
            }
            Record::Floor => {
                self.floor = 1;
                self.ended = [false, self.is_ended(1)];
            }
            Record::End(_) | Record::Epoch => {}
        }
    }

    /// The same floor with maps in which all is valid: what a relay would like to show.
    #[must_use]
    pub fn without_ends(self) -> Self {
        Self {
            ended: [false; 2],
            ..self
        }
    }

    /// Whether `later` can have come of this: floors never fall, ends are final.
    #[must_use]
    pub fn leads_to(self, later: Self) -> bool {
        let keeps = |bucket: &Bucket| {
            *bucket < later.floor || !self.is_ended(*bucket) || later.is_ended(*bucket)
        };
        later.floor >= self.floor && BUCKETS.iter().all(keeps)
    }
}

/// What a signed head says, but for the nonce. The epoch and the floor follow from the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Head {
    /// Of which log.
    pub generation: u8,
    /// Position and hash.
    pub chain: Chain,
    /// The server's clock when it was signed.
    pub time: i8,
}
