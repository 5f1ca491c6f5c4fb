//! Numbers and texts that are looked for, by each eight octets of them in either order.

use std::collections::{BTreeMap, HashMap};

use crate::image::Image;

/// Bits of the filter that most octets of a memory image do not pass.
const FILTER: u32 = 26;

/// What is looked for. A half, or a whole, is found by the limbs that it is made of.
pub(crate) struct Known {
    names: Vec<String>,
    limbs: HashMap<u64, u16>,
    filter: Vec<u64>,
}

/// What was found: names, and where.
pub(crate) type Found = BTreeMap<String, Vec<String>>;

impl Known {
    pub(crate) fn new() -> Self {
        Self {
            names: Vec::new(),
            limbs: HashMap::new(),
            filter: vec![0; 1 << (FILTER - 6)],
        }
    }

    /// Each eight octets of these, from the first on.
    pub(crate) fn add(&mut self, name: &str, octets: &[u8]) {
        let name = self.name(name);
        for limb in octets.chunks_exact(8) {
            let limb = u64::from_le_bytes(limb.try_into().unwrap());
            assert!(
                limb.to_le_bytes() != [limb as u8; 8],
                "found anywhere: {limb:x}"
            );
            for limb in [limb, limb.swap_bytes()] {
                self.limbs.insert(limb, name);
                let (word, bit) = place(limb);
                self.filter[word] |= bit;
            }
        }
    }

    /// How many limbs there are.
    pub(crate) fn len(&self) -> usize {
        self.limbs.len()
    }

    /// Where an image has any, at whatever offset.
    pub(crate) fn search(&self, image: &Image) -> Found {
        let mut found = Found::new();
        for range in &image.ranges {
            let mut limb = 0_u64;
            for (at, octet) in range.octets.iter().enumerate() {
                limb = (limb >> 8) | (u64::from(*octet) << 56);
                if limb == 0 {
                    continue;
                }
                let (word, bit) = place(limb);
                if self.filter[word] & bit == 0 {
                    continue;
                }
                if let Some(name) = self.limbs.get(&limb) {
                    let address = range.from + at as u64 - 7;
                    let place = format!("{address:x} {}", range.name);
                    let name = &self.names[usize::from(*name)];
                    found.entry(name.clone()).or_default().push(place);
                }
            }
        }
        found
    }

    fn name(&mut self, name: &str) -> u16 {
        let at = self.names.iter().position(|known| known == name);
        let at = at.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        at.try_into().unwrap()
    }
}

fn place(limb: u64) -> (usize, u64) {
    let hash = limb.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FILTER);
    ((hash >> 6) as usize, 1 << (hash & 63))
}

#[test]
fn a_limb_is_found_at_any_offset_and_in_either_order() {
    let mut known = Known::new();
    known.add(
        "one",
        &[1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18],
    );
    let search = |octets: &[u8]| {
        let range = crate::image::Range {
            from: 0x1000,
            name: "heap".to_owned(),
            octets: octets.to_vec(),
        };
        known.search(&Image {
            ranges: vec![range],
            refused: Vec::new(),
        })
    };
    let at = |place: &str| Found::from([("one".to_owned(), vec![place.to_owned()])]);
    assert_eq!(search(&[0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]), at("1003 heap"));
    assert_eq!(
        search(&[18, 17, 16, 15, 14, 13, 12, 11, 9]),
        at("1000 heap")
    );
    assert_eq!(search(&[1, 2, 3, 4, 5, 6, 7, 9, 8]), Found::new());
}
