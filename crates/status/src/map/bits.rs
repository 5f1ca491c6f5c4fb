//! Bits one after the other, the lowest of each octet first.

use super::MapError;

/// Writes bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BitWriter {
    words: Vec<u64>,
    last: u64,
    /// Bits in `last`, below 64.
    filled: u32,
}

impl BitWriter {
    /// The low `count` bits, at most 64, of a value that has no others.
    pub(super) fn put(&mut self, value: u64, count: u32) {
        self.last |= value << self.filled;
        let filled = self.filled + count;
        if filled < 64 {
            self.filled = filled;
            return;
        }
        self.words.push(self.last);
        self.last = value.checked_shr(64 - self.filled).unwrap_or(0);
        self.filled = filled - 64;
    }

    /// A number from 1 on: as many zeros as it has bits below its highest, a one, those bits.
    pub(super) fn put_gamma(&mut self, number: u32) {
        let below = number.max(1).ilog2();
        self.put(1 << below, below + 1);
        self.put(u64::from(number) & mask(below), below);
    }

    /// A number by Golomb and Rice: the part above `k` bits in zeros, a one, the `k` bits.
    pub(super) fn put_rice(&mut self, number: u32, k: u32) {
        let mut zeros = number >> k;
        while zeros >= 32 {
            self.put(0, 32);
            zeros -= 32;
        }
        self.put(1 << zeros, zeros + 1);
        self.put(u64::from(number) & mask(k), k);
    }

    pub(super) fn append(&mut self, other: &Self) {
        for word in &other.words {
            self.put(*word, 64);
        }
        self.put(other.last, other.filled);
    }

    /// As octets, the last one filled up with zeros, behind what is in `into`.
    pub(super) fn finish(&self, into: &mut Vec<u8>) {
        into.reserve(8 * self.words.len() + 8);
        for word in &self.words {
            into.extend_from_slice(&word.to_le_bytes());
        }
        let rest = self.filled.div_ceil(8) as usize;
        into.extend(self.last.to_le_bytes().iter().take(rest));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        64 * self.words.len() + self.filled as usize
    }
}

/// The lowest `count` bits, below 64.
fn mask(count: u32) -> u64 {
    (1 << count) - 1
}

/// Reads bits.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Octets that are in `ahead` whole.
    at: usize,
    /// Bits to be read next. What lies above `count` is either right or zero.
    ahead: u64,
    count: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            ahead: 0,
            count: 0,
        }
    }

    /// At least 56 bits ahead, where the input has them.
    fn refill(&mut self) {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if let Some((octets, _)) = rest.split_first_chunk::<8>() {
            self.ahead |= u64::from_le_bytes(*octets) << self.count;
            self.at += ((63 - self.count) / 8) as usize;
            self.count |= 56;
            return;
        }
        for octet in rest {
            if self.count >= 56 {
                break;
            }
            self.ahead |= u64::from(*octet) << self.count;
            self.at += 1;
            self.count += 8;
        }
    }

    fn skip(&mut self, count: u32) {
        self.ahead >>= count;
        self.count -= count;
    }

    /// The next bits, at most 32.
    pub(super) fn take(&mut self, count: u32) -> Result<u32, MapError> {
        if self.count < count {
            self.refill();
        }
        if self.count < count {
            return Err(MapError::Truncated);
        }
        let value = self.ahead & mask(count);
        self.skip(count);
        Ok(value as u32)
    }

    pub(super) fn flag(&mut self) -> Result<bool, MapError> {
        Ok(self.take(1)? == 1)
    }

    /// A number as [`BitWriter::put_gamma`] writes it, below 2^32.
    pub(super) fn take_gamma(&mut self) -> Result<u32, MapError> {
        let below = self.zeros(31)?;
        Ok(1 << below | self.take(below)?)
    }

    /// A number as [`BitWriter::put_rice`] writes it, `k` at most 15.
    ///
    /// # Errors
    /// [`MapError::Packing`] when it is `bound` or more, [`MapError::Truncated`].
    pub(super) fn take_rice(&mut self, k: u32, bound: u32) -> Result<u32, MapError> {
        if self.count < 32 {
            self.refill();
        }
        let zeros = self.ahead.trailing_zeros();
        let whole = zeros + 1 + k;
        if whole > self.count {
            return self.take_long_rice(k, bound);
        }
        // Below 64 in all, since that many bits are there.
        let low = (self.ahead >> zeros >> 1) & mask(k);
        self.skip(whole);
        let number = zeros << k | low as u32;
        if number < bound {
            Ok(number)
        } else {
            Err(MapError::Packing)
        }
    }

    #[cold]
    fn take_long_rice(&mut self, k: u32, bound: u32) -> Result<u32, MapError> {
        let zeros = self.zeros(bound >> k)?;
        let number = zeros << k | self.take(k)?;
        if number < bound {
            Ok(number)
        } else {
            Err(MapError::Packing)
        }
    }

    /// Zeros up to a one, which is taken too: at most so many.
    fn zeros(&mut self, most: u32) -> Result<u32, MapError> {
        let mut zeros = 0;
        loop {
            self.refill();
            if self.count == 0 {
                return Err(MapError::Truncated);
            }
            let here = self.ahead.trailing_zeros().min(self.count);
            zeros += here;
            if zeros > most {
                return Err(MapError::Packing);
            }
            if here < self.count {
                self.skip(here + 1);
                return Ok(zeros);
            }
            (self.ahead, self.count) = (0, 0);
        }
    }

    /// Whether nothing is left but the zeros that fill an octet.
    pub(super) fn is_finished(&mut self) -> bool {
        self.refill();
        self.at == self.bytes.len() && self.count < 8 && self.ahead == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn octets(bits: &BitWriter) -> Vec<u8> {
        let mut octets = Vec::new();
        bits.finish(&mut octets);
        octets
    }

    #[test]
    fn the_first_bit_is_the_lowest_of_the_first_octet() {
        let mut bits = BitWriter::default();
        bits.put(1, 1);
        bits.put_gamma(5); // 0 0 1, then 1 0
        bits.put_rice(6, 2); // 0 1, then 0 1
        assert_eq!(octets(&bits), [0b1001_1001, 0b10]);
    }

    #[test]
    fn bits_behind_the_end_are_missed_and_zeros_without_end_refused() {
        assert_eq!(BitReader::new(&[]).take(1), Err(MapError::Truncated));
        assert_eq!(BitReader::new(&[0; 9]).take_gamma(), Err(MapError::Packing));
        assert_eq!(
            BitReader::new(&[0; 4000]).take_rice(0, 16_384),
            Err(MapError::Packing)
        );
        assert_eq!(
            BitReader::new(&[0; 40]).take_rice(0, 16_384),
            Err(MapError::Truncated)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_was_put_is_taken(
            numbers in proptest::collection::vec((0..16_384_u32, 0..15_u32, 0..3_u8), 0..200),
            cut in 0..64_u32,
        ) {
            let (mut bits, mut parts) = (BitWriter::default(), BitWriter::default());
            bits.put(0, cut);
            for (number, k, form) in &numbers {
                match form {
                    0 => parts.put(u64::from(*number), 14),
                    1 => parts.put_gamma(number + 1),
                    _ => parts.put_rice(*number, *k),
                }
            }
            bits.append(&parts);
            prop_assert_eq!(bits.len(), parts.len() + cut as usize);
            let octets = octets(&bits);
            let mut reader = BitReader::new(&octets);
            reader.take(cut.min(32)).unwrap();
            reader.take(cut.saturating_sub(32)).unwrap();
            for (number, k, form) in &numbers {
                let read = match form {
                    0 => reader.take(14),
                    1 => reader.take_gamma().map(|number| number - 1),
                    _ => reader.take_rice(*k, 16_384),
                };
                prop_assert_eq!(read, Ok(*number));
            }
            prop_assert!(reader.is_finished());
        }
    }
}
