//! Reading fixed binary layouts front to back, without indexing and without panics.

/// The input ended before the layout did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncated;

/// What is left of an input; every read takes from the front.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn slice(&mut self, len: usize) -> Result<&'a [u8], Truncated> {
        let (first, rest) = self.0.split_at_checked(len).ok_or(Truncated)?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Truncated> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Truncated> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Truncated> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Five octets, as indices are written.
    pub(crate) fn u40(&mut self) -> Result<u64, Truncated> {
        let [a, b, c, d, e] = self.array::<5>()?;
        Ok(u64::from_be_bytes([0, 0, 0, a, b, c, d, e]))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Truncated> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The low five octets of an index, big-endian.
pub(crate) fn u40(value: u64) -> [u8; 5] {
    let [_, _, _, a, b, c, d, e] = value.to_be_bytes();
    [a, b, c, d, e]
}

/// A fixed layout being written; what is not written stays zero.
pub(crate) struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    pub(crate) fn new() -> Self {
        Self {
            bytes: [0; N],
            at: 0,
        }
    }

    /// Appends `part`. Layouts are constants: every caller's parts add up to at most `N`.
    pub(crate) fn put(mut self, part: &[u8]) -> Self {
        for (into, from) in self.bytes.iter_mut().skip(self.at).zip(part) {
            *into = *from;
        }
        self.at += part.len();
        debug_assert!(self.at <= N, "a layout holds its parts");
        self
    }

    pub(crate) fn done(self) -> [u8; N] {
        self.bytes
    }
}
