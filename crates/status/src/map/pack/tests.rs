use proptest::prelude::*;

use super::*;
use crate::map::{Status, chunk_of};

const CHUNK: u64 = CHUNK_STATUSES;

/// Chance by numbers alone: the same in every run.
struct Chance(u64);

impl Chance {
    /// From 0 to below 1.
    fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        for shift in [30, 27] {
            mixed = (mixed ^ mixed >> shift).wrapping_mul(0xbf58_476d_1ce4_e5b9 + shift);
        }
        ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn filled(sets: impl IntoIterator<Item = (u64, Status)>) -> StatusMap {
    let mut map = StatusMap::new();
    for (index, status) in sets {
        map.set(index, status).unwrap();
    }
    map
}

fn ended(indices: impl IntoIterator<Item = u64>) -> StatusMap {
    filled(indices.into_iter().map(|index| (index, Status::Ended)))
}

fn back(packed: &[u8], map: &StatusMap) -> Result<StatusMap, MapError> {
    StatusMap::unpack(packed, map.chunks().len() as u32)
}

/// The map as version 1 wrote it, each octet by itself.
fn version_one(map: &StatusMap) -> Vec<u8> {
    let mut packed = vec![RUNS_VERSION];
    packed.extend_from_slice(&(map.chunks().len() as u32).to_be_bytes());
    for (number, chunk) in map.chunks() {
        packed.extend_from_slice(&number.to_be_bytes());
        for octet in chunk.as_bytes() {
            match octet {
                0 => packed.push(ZEROS),
                octet => packed.extend([0, *octet]),
            }
        }
    }
    packed
}

/// Bits that a set of so many positions needs, each in it with this chance.
fn entropy(positions: f64, p: f64) -> f64 {
    if p <= 0.0 || p >= 1.0 {
        return 0.0;
    }
    -positions * (p * p.log2() + (1.0 - p) * (1.0 - p).log2())
}

#[test]
fn positions_by_chance_cost_at_most_a_twentieth_more_than_entropy_demands() {
    let positions = 40 * CHUNK;
    for p in [
        0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 0.99, 0.999,
    ] {
        let mut chance = Chance(7);
        let map = ended((0..positions).filter(|_| chance.draw() < p));
        let bits = 8.0 * map.pack().len() as f64;
        let ratio = bits / entropy(positions as f64, p);
        assert!(
            ratio
                < if (0.005..0.995).contains(&p) {
                    1.05
                } else {
                    1.15
                },
            "{p}: {ratio}"
        );
    }
}

#[test]
fn runs_cost_at_most_an_eighth_more_than_entropy_demands() {
    for (live, dead) in [
        (10.0, 3.0),
        (20.0, 20.0),
        (200.0, 50.0),
        (1_000.0, 900.0),
        (3.0, 40.0),
    ] {
        let mut chance = Chance(11);
        let (positions, mut is_ended) = (40 * CHUNK, false);
        let map = ended((0..positions).filter(|_| {
            if chance.draw() < 1.0 / if is_ended { dead } else { live } {
                is_ended = !is_ended;
            }
            is_ended
        }));
        let share = dead / (live + dead);
        let positions = positions as f64;
        let demanded =
            entropy(positions * (1.0 - share), 1.0 / live) + entropy(positions * share, 1.0 / dead);
        let ratio = 8.0 * map.pack().len() as f64 / demanded;
        assert!(ratio < 1.13, "{live} live, {dead} ended: {ratio}");
    }
}

#[test]
fn a_bucket_that_ends_inside_a_chunk_costs_what_it_has() {
    let mut chance = Chance(3);
    let map = ended((0..2_800).filter(|_| chance.draw() < 0.9));
    let ratio = 8.0 * (map.pack().len() - 5) as f64 / entropy(2_800.0, 0.9);
    assert!(ratio < 1.1, "{ratio}");
}

#[test]
fn a_few_ends_far_apart_cost_little_more_than_their_indices() {
    let map = ended((0..100).map(|number| number * 3 * CHUNK + 5_000));
    assert!(
        map.pack().len() < 100 * 21 / 8 + 5 + 50,
        "{}",
        map.pack().len()
    );
    assert!(ended([0]).pack().len() < 10);
    assert!(ended(0..CHUNK).pack().len() < 10);
}

#[test]
fn every_form_comes_back() {
    let all: Vec<StatusMap> = vec![
        StatusMap::new(),
        ended([0]),
        ended([MAX_INDEX]),
        ended([CHUNK - 1]),
        ended(0..CHUNK),
        ended(0..3 * CHUNK),
        ended(1..CHUNK),
        ended(0..CHUNK - 1),
        ended((0..CHUNK).step_by(2)),
        ended((1..CHUNK).step_by(2)),
        ended((0..CHUNK).filter(|index| index / 1_000 % 2 == 0)),
        ended((0..CHUNK).filter(|index| index / 1_000 % 2 == 1)),
        filled((0..CHUNK).map(|index| (index, Status::Suspended))),
        filled((0..CHUNK).map(|index| (index, Status::from_bits((index % 3) as u8).unwrap()))),
    ];
    for map in all {
        assert_eq!(back(&map.pack(), &map).as_ref(), Ok(&map));
        assert_eq!(back(&version_one(&map), &map).as_ref(), Ok(&map));
    }
}

#[test]
fn malformed_packings_are_refused_each_for_its_reason() {
    let good = ended([1, 20_000]).pack();
    let edited = |at: usize, to: u8| {
        let mut bad = good.clone();
        bad[at] = to;
        StatusMap::unpack(&bad, 2)
    };
    assert_eq!(edited(0, 0), Err(MapError::Version(0)));
    assert_eq!(edited(0, 3), Err(MapError::Version(3)));
    assert_eq!(StatusMap::unpack(&good, 1), Err(MapError::Count));
    assert_eq!(
        StatusMap::unpack(&good[..good.len() - 1], 2),
        Err(MapError::Truncated)
    );
    for octet in [0, 1] {
        let mut trailing = good.clone();
        trailing.push(octet);
        assert_eq!(StatusMap::unpack(&trailing, 2), Err(MapError::Trailing));
    }
}

/// A packed map of one chunk that these parts make: a number and how many bits of it.
fn made(parts: &[(u64, u32)]) -> Result<StatusMap, MapError> {
    let mut bits = BitWriter::default();
    bits.put(1, 1); // chunk 0
    for (value, count) in parts {
        bits.put(*value, *count);
    }
    let mut packed = vec![VERSION, 0, 0, 0, 1];
    bits.finish(&mut packed);
    StatusMap::unpack(&packed, 1)
}

#[test]
fn forged_sets_are_refused_each_for_its_reason() {
    let gaps = [(0, 1), (0, 2), (1, 1), (0, 1)];
    let with = |more: &[(u64, u32)]| made(&[gaps.as_slice(), more].concat());
    // One listed position, by k = 14: 5.
    let (one, k) = ((0b010, 3), (14, 4));
    assert_eq!(with(&[one, k, (1, 1), (5, 14), (0, 1)]), Ok(ended([5])));
    assert_eq!(
        with(&[one, k, (0b10, 2), (5, 14), (0, 1)]),
        Err(MapError::Packing),
        "far behind"
    );
    assert_eq!(with(&[(1, 1), k, (0, 1)]), Err(MapError::AllValid));
    let many = (1 << 15, 31);
    assert_eq!(
        with(&[many, k]),
        Err(MapError::Packing),
        "more than there are"
    );
    assert_eq!(made(&[(1, 1), (1 << 30, 61)]), Err(MapError::Packing));
    assert_eq!(
        made(&[(0, 1), (3, 2)]),
        Err(MapError::Packing),
        "a form to come"
    );
    assert_eq!(with(&[one, (0, 4)]), Err(MapError::Truncated));
    // The same position is ended and suspended.
    let first = [(1, 1), (1, 1), (1, 1), (0, 13)];
    assert_eq!(
        made(&[first.as_slice(), &[(1, 1)], &first].concat()),
        Err(MapError::Reserved)
    );
    // Two runs, the first one as long as the chunk: none is left for the second.
    let runs = [(0, 1), (1, 2), (1, 1), (0b010, 3), (14, 4), (14, 4)];
    let with = |zero: u64| made(&[runs.as_slice(), &[(1, 1), (zero, 14), (0, 1)]].concat());
    assert_eq!(with(16_383), Err(MapError::Packing));
    assert_eq!(with(16_382), Ok(ended(0..16_383)));
    assert_eq!(with(16_382).unwrap().get(16_383), Status::Valid);
}

#[test]
fn claims_of_gigabytes_cost_what_their_octets_do() {
    for version in [RUNS_VERSION, VERSION] {
        let claims = [version, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(
            StatusMap::unpack(&claims, u32::MAX),
            Err(MapError::Truncated)
        );
    }
    let far = [VERSION, 0, 0, 0, 1, 0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(StatusMap::unpack(&far, 1), Err(MapError::Order));
}

#[test]
fn version_one_is_refused_where_it_is_malformed() {
    let good = version_one(&ended([1, 20_000]));
    let second = good.iter().rposition(|octet| *octet == 1).unwrap();
    let edited = |at: usize, to: u8| {
        let mut bad = good.clone();
        bad[at] = to;
        StatusMap::unpack(&bad, 2)
    };
    assert_eq!(edited(5, 0xff), Err(MapError::Order));
    assert_eq!(edited(8, 2), Err(MapError::Order), "not before the second");
    assert_eq!(edited(10, 0b0000_1100), Err(MapError::Reserved));
    assert_eq!(edited(10, 0), Err(MapError::AllValid));
    assert_eq!(edited(second, 3), Err(MapError::Reserved));
    assert_eq!(edited(good.len() - 1, 0xff), Err(MapError::Packing));
    assert_eq!(
        StatusMap::unpack(&good[..good.len() - 1], 2),
        Err(MapError::Truncated)
    );
}

fn statuses() -> impl Strategy<Value = Vec<(u64, Status)>> {
    let status = prop_oneof![
        1 => Just(Status::Valid),
        8 => Just(Status::Ended),
        1 => Just(Status::Suspended)
    ];
    let index = prop_oneof![0..200_000_u64, 0..=MAX_INDEX];
    proptest::collection::vec((index, status), 0..200)
}

/// Stretches of one status, of which some are long.
fn stretches() -> impl Strategy<Value = StatusMap> {
    let length = prop_oneof![1..4_u64, 1..200_u64, 1..20_000_u64];
    let stretch = (length, 0..3_u8);
    proptest::collection::vec(stretch, 0..60).prop_map(|stretches| {
        let mut from = 0;
        let mut map = StatusMap::new();
        for (length, bits) in stretches {
            for index in from..from + length {
                map.set(index, Status::from_bits(bits).unwrap()).unwrap();
            }
            from += length;
        }
        map
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_packed_map_comes_back(sets in statuses()) {
        let map = filled(sets);
        prop_assert_eq!(back(&version_one(&map), &map), Ok(map.clone()));
        prop_assert_eq!(back(&map.pack(), &map), Ok(map));
    }

    #[test]
    fn every_map_of_stretches_comes_back(map in stretches()) {
        prop_assert_eq!(back(&map.pack(), &map), Ok(map));
    }

    #[test]
    fn chunks_packed_apart_make_the_same_map(sets in statuses()) {
        let map = filled(sets);
        let packed: Vec<_> = map.chunks().map(|(number, chunk)| (number, chunk.pack())).collect();
        let together = pack(packed.iter().map(|(number, chunk)| (*number, chunk)));
        prop_assert_eq!(together, map.pack());
    }

    #[test]
    fn a_map_with_a_bit_turned_is_refused_or_another_or_the_same(
        sets in statuses(),
        at: prop::sample::Index,
        bit in 0..8_u32,
    ) {
        let map = filled(sets);
        let mut packed = map.pack();
        let at = at.index(packed.len());
        packed[at] ^= 1 << bit;
        // Whichever it is, the signed digest tells.
        if let Ok(read) = back(&packed, &map) {
            prop_assert_eq!(read.digest() == map.digest(), read == map);
            prop_assert_eq!(back(&read.pack(), &read), Ok(read));
        }
    }

    #[test]
    fn arbitrary_octets_never_panic_nor_grow(
        mut packed in proptest::collection::vec(any::<u8>(), 0..300),
        chunks in 0_u32..4,
        version in 0..4_u8,
    ) {
        if version > 0 {
            packed.splice(0..packed.len().min(5), [version, 0, 0, 0, chunks as u8]);
        }
        if let Ok(map) = StatusMap::unpack(&packed, chunks) {
            prop_assert_eq!(map.chunks().len(), chunks as usize);
            for (number, chunk) in map.chunks() {
                prop_assert!(chunk_of(u64::from(number) * CHUNK).is_ok());
                prop_assert!(!chunk.is_all_valid());
                let read = Chunk::from_bytes(chunk.as_bytes());
                prop_assert_eq!(read.as_ref(), Ok(chunk));
            }
        }
    }
}
