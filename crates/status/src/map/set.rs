//! One of a chunk's two sets, of ended or of suspended positions, in few bits.
//!
//! A set is held as 512 words of 32 positions each, in the even bits, as a chunk has its ended
//! ones. Whatever its form, reading costs a few cycles for each gap or run and none for a position.

use super::MapError;
use super::bits::{BitReader, BitWriter};

/// Positions in a set.
pub(super) const POSITIONS: u32 = 16_384;
const WORDS: usize = 512;

/// The bit of every position of a word.
const EVERY: u64 = 0x5555_5555_5555_5555;

pub(super) type Words = [u64; WORDS];

pub(super) const NOTHING: Words = [0; WORDS];

// The forms of a set that is not merely a few listed positions.
const GAPS: u32 = 0;
const RUNS: u32 = 1;
const PLAIN: u32 = 2;

/// The best parameter where `count` of all positions are listed, by chance: the number of bits in
/// 0.481 (1/p - 1/2), from when on a bit more is worth it (the golden section has a part in that).
fn parameter(count: u32) -> u32 {
    let ratio = 77 * (2 * POSITIONS - count) / (320 * count.max(1));
    u32::BITS - ratio.leading_zeros()
}

/// Writes a set in the form that takes the fewest bits.
pub(super) fn pack(set: &Words, into: &mut BitWriter) {
    let listed = Listed::of(set);
    let runs = Runs::of(set, listed.gaps.len());
    let (gaps, plain) = (listed.cost, 3 + POSITIONS);
    match runs {
        Some(runs) if runs.cost < gaps.min(plain) => runs.pack(into),
        _ if gaps < plain => listed.pack(into),
        _ => pack_plain(set, into),
    }
}

/// Reads a set.
///
/// # Errors
/// [`MapError::Packing`] for an unknown form and for gaps or runs beyond the last position,
/// [`MapError::Truncated`].
pub(super) fn unpack(bits: &mut BitReader<'_>) -> Result<Words, MapError> {
    if bits.flag()? {
        let count = listed(bits.take_gamma()?)?;
        return unpack_gaps(bits, count, parameter(count), true, false);
    }
    match bits.take(2)? {
        GAPS => {
            let (value, rest) = (bits.flag()?, bits.flag()?);
            let count = listed(bits.take_gamma()? - 1)?;
            let k = bits.take(4)?;
            unpack_gaps(bits, count, k, value, rest)
        }
        RUNS => unpack_runs(bits),
        PLAIN => {
            let mut set = NOTHING;
            for word in &mut set {
                *word = spread(bits.take(32)?);
            }
            Ok(set)
        }
        _ => Err(MapError::Packing),
    }
}

/// No more than there are positions.
fn listed(count: u32) -> Result<u32, MapError> {
    if count > POSITIONS {
        return Err(MapError::Packing);
    }
    Ok(count)
}

/// The positions of one value by the gaps between them.
struct Listed {
    /// Whose positions are listed.
    value: bool,
    /// The value behind the last listed one.
    rest: bool,
    gaps: Vec<u32>,
    /// None: what follows from their number.
    k: Option<u32>,
    cost: u32,
}

impl Listed {
    /// Lists the rarer value.
    fn of(set: &Words) -> Self {
        let rest = value_at(set, POSITIONS - 1);
        let end = tail(set, rest);
        let ones = count(set, end);
        // Of the last run no list needs more than where it begins.
        let value = ones + u32::from(rest) <= end - ones + u32::from(!rest);
        let end = end + u32::from(value == rest);
        let gaps = gaps(set, value, end);
        let listed = gaps.len() as u32;
        let implied = parameter(listed);
        let short = 1 + gamma_cost(listed) + rice_cost(&gaps, implied);
        let (k, cost) = best(&gaps, end);
        let long = 5 + gamma_cost(listed + 1) + 4 + cost;
        let is_short = value && !rest && listed > 0 && short <= long;
        Self {
            value,
            rest,
            gaps,
            k: (!is_short).then_some(k),
            cost: if is_short { short } else { long },
        }
    }

    fn pack(&self, into: &mut BitWriter) {
        let listed = self.gaps.len() as u32;
        let k = self.k.unwrap_or_else(|| parameter(listed));
        if self.k.is_none() {
            into.put(1, 1);
            into.put_gamma(listed);
        } else {
            into.put(0, 1);
            into.put(u64::from(GAPS), 2);
            into.put(u64::from(self.value), 1);
            into.put(u64::from(self.rest), 1);
            into.put_gamma(listed + 1);
            into.put(u64::from(k), 4);
        }
        for gap in &self.gaps {
            into.put_rice(*gap, k);
        }
    }
}

fn unpack_gaps(
    bits: &mut BitReader<'_>,
    count: u32,
    k: u32,
    value: bool,
    rest: bool,
) -> Result<Words, MapError> {
    let mut set = if value { NOTHING } else { [EVERY; WORDS] };
    let mut at = 0;
    for _ in 0..count {
        at += bits.take_rice(k, POSITIONS - at)?;
        if let Some(word) = set.get_mut((at / 32) as usize) {
            *word ^= 1 << (at % 32 * 2);
        }
        at += 1;
    }
    if rest == value {
        flip(&mut set, at, POSITIONS);
    }
    Ok(set)
}

/// Alternating runs by their lengths, less one; the last one fills up.
struct Runs {
    first: bool,
    lengths: [Vec<u32>; 2],
    k: [u32; 2],
    cost: u32,
}

impl Runs {
    /// None where there are more of them than so many: then they are not worth it.
    fn of(set: &Words, most: usize) -> Option<Self> {
        let first = value_at(set, 0);
        let mut changes = Vec::new();
        let mut before = u64::from(first);
        for (number, word) in (0..).zip(set) {
            let mut changed = (word ^ (word << 2 | before)) & EVERY;
            if changes.len() + changed.count_ones() as usize > most {
                return None;
            }
            while changed != 0 {
                changes.push(32 * number + changed.trailing_zeros() / 2);
                changed &= changed - 1;
            }
            before = word >> 62;
        }
        let mut lengths = [Vec::new(), Vec::new()];
        let (mut from, mut value) = (0, first);
        for to in &changes {
            let [zeros, ones] = &mut lengths;
            if value { ones } else { zeros }.push(to - from - 1);
            (from, value) = (*to, !value);
        }
        let [zeros, ones] = lengths
            .each_ref()
            .map(|of_value| best(of_value, of_value.iter().sum()));
        Some(Self {
            first,
            k: [zeros.0, ones.0],
            cost: 4 + gamma_cost(changes.len() as u32 + 1) + 8 + zeros.1 + ones.1,
            lengths,
        })
    }

    fn pack(&self, into: &mut BitWriter) {
        let [zeros, ones] = &self.lengths;
        into.put(0, 1);
        into.put(u64::from(RUNS), 2);
        into.put(u64::from(self.first), 1);
        into.put_gamma((zeros.len() + ones.len()) as u32 + 1);
        for k in self.k {
            into.put(u64::from(k), 4);
        }
        let (mut zeros, mut ones) = (zeros.iter(), ones.iter());
        let (mut value, [zeros_k, ones_k]) = (self.first, self.k);
        while let Some(length) = if value { ones.next() } else { zeros.next() } {
            into.put_rice(*length, if value { ones_k } else { zeros_k });
            value = !value;
        }
    }
}

fn unpack_runs(bits: &mut BitReader<'_>) -> Result<Words, MapError> {
    let mut value = bits.flag()?;
    let count = bits.take_gamma()?;
    let (zeros_k, ones_k) = (bits.take(4)?, bits.take(4)?);
    let (mut set, mut at) = (NOTHING, 0);
    for _ in 1..count {
        let k = if value { ones_k } else { zeros_k };
        // Something is left for the last one.
        let to = at + bits.take_rice(k, POSITIONS - 1 - at)? + 1;
        if value {
            flip(&mut set, at, to);
        }
        (at, value) = (to, !value);
    }
    if value {
        flip(&mut set, at, POSITIONS);
    }
    Ok(set)
}

fn pack_plain(set: &Words, into: &mut BitWriter) {
    into.put(0, 1);
    into.put(u64::from(PLAIN), 2);
    for word in set {
        into.put(u64::from(gathered(*word)), 32);
    }
}

/// The even bits, side by side.
fn gathered(word: u64) -> u32 {
    let mut bits = word & EVERY;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        bits = (bits | bits >> shift) & mask;
    }
    bits as u32
}

/// The bits, at even places.
fn spread(bits: u32) -> u64 {
    let mut word = u64::from(bits);
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, EVERY),
    ] {
        word = (word | word << shift) & mask;
    }
    word
}

fn value_at(set: &Words, position: u32) -> bool {
    set.get((position / 32) as usize)
        .is_some_and(|word| word >> (position % 32 * 2) & 1 == 1)
}

/// Turns every position from `from` to below `to` round.
fn flip(set: &mut Words, from: u32, to: u32) {
    let Some(last) = to.checked_sub(1).filter(|last| from <= *last) else {
        return;
    };
    let (first_word, last_word) = ((from / 32) as usize, (last / 32) as usize);
    let (low, high) = (EVERY << (from % 32 * 2), EVERY >> (62 - last % 32 * 2));
    let Some(words) = set.get_mut(first_word..=last_word) else {
        return;
    };
    match words {
        [] => {}
        [only] => *only ^= low & high,
        [first, between @ .., last] => {
            *first ^= low;
            between.iter_mut().for_each(|word| *word ^= EVERY);
            *last ^= high;
        }
    }
}

/// Where the last run, of `value`, begins.
fn tail(set: &Words, value: bool) -> u32 {
    let other = if value { EVERY } else { 0 };
    let found = set.iter().rposition(|word| word ^ other != 0);
    found.map_or(0, |number| {
        let others = set.get(number).map_or(0, |word| word ^ other);
        32 * number as u32 + others.checked_ilog2().unwrap_or(0) / 2 + 1
    })
}

/// How many positions below `end` are in the set.
fn count(set: &Words, end: u32) -> u32 {
    let below_end = |number: u32, word: &u64| match end.saturating_sub(32 * number) {
        0 => 0,
        some @ 1..32 => word & ((1 << (2 * some)) - 1),
        _ => *word,
    };
    (0_u32..)
        .zip(set)
        .map(|(number, word)| below_end(number, word).count_ones())
        .sum()
}

/// For each position of this value below `end`, how many others lie before it.
fn gaps(set: &Words, value: bool, end: u32) -> Vec<u32> {
    let other = if value { 0 } else { EVERY };
    let (mut gaps, mut from) = (Vec::new(), 0);
    for (number, word) in (0..end.div_ceil(32)).zip(set) {
        let mut listed = (word ^ other) & EVERY;
        while listed != 0 {
            let position = 32 * number + listed.trailing_zeros() / 2;
            if position >= end {
                break;
            }
            gaps.push(position - from);
            from = position + 1;
            listed &= listed - 1;
        }
    }
    gaps
}

fn gamma_cost(number: u32) -> u32 {
    2 * number.max(1).ilog2() + 1
}

fn rice_cost(numbers: &[u32], k: u32) -> u32 {
    let above: u32 = numbers.iter().map(|number| number >> k).sum();
    above + numbers.len() as u32 * (k + 1)
}

/// The best parameter for numbers that come to about `sum`, and what they cost by it.
fn best(numbers: &[u32], sum: u32) -> (u32, u32) {
    let mean = sum / (numbers.len() as u32).max(1);
    let guess = (mean.max(1).ilog2() + 1).min(14);
    let costs = (guess.saturating_sub(3)..=guess).map(|k| (k, rice_cost(numbers, k)));
    costs
        .min_by_key(|(_, cost)| *cost)
        .unwrap_or((guess, rice_cost(numbers, guess)))
}
