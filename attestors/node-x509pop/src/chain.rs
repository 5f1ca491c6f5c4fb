//! The certificates that a node shows.
//!
//! ```text
//! payload     = version (1 octet, 1) | number (1) | certificate...
//! certificate = length (2, big-endian) | DER
//! ```

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use taskmint_attest::MAX_EXCHANGE;

/// The most certificates of a chain, the leaf included.
pub const MAX_CERTIFICATES: usize = 8;

/// The longest certificate, in bytes.
pub const MAX_CERTIFICATE: usize = 16 << 10;

const VERSION: u8 = 1;

/// One to eight certificates, the leaf first. What is in them is not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    leaf: CertificateDer<'static>,
    others: Vec<CertificateDer<'static>>,
}

/// What is no chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Nothing in it.
    #[error("there is no certificate")]
    Empty,
    /// More than [`MAX_CERTIFICATES`].
    #[error("more than {MAX_CERTIFICATES} certificates")]
    TooMany,
    /// One of none or of more than [`MAX_CERTIFICATE`] bytes.
    #[error("a certificate that is empty or has more than {MAX_CERTIFICATE} bytes")]
    Length,
    /// More than an attestation may carry.
    #[error("the certificates have more than {MAX_EXCHANGE} bytes together")]
    TooLong,
    /// Not PEM.
    #[error("malformed PEM")]
    Pem,
    /// Of another version.
    #[error("a payload of another version than 1")]
    Version,
    /// Cut off, or followed by something.
    #[error("the payload does not end with its last certificate")]
    Extent,
}

impl Chain {
    /// A chain of these certificates, the leaf first.
    ///
    /// # Errors
    /// [`ChainError`] if there are none, too many, or if they are too long.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, ChainError> {
        if certificates.len() > MAX_CERTIFICATES {
            return Err(ChainError::TooMany);
        }
        if !certificates.iter().all(|der| is_length(der.len())) {
            return Err(ChainError::Length);
        }
        let total: usize = certificates.iter().map(|der| 2 + der.len()).sum();
        if 2 + total > MAX_EXCHANGE {
            return Err(ChainError::TooLong);
        }
        let mut certificates = certificates.into_iter();
        let leaf = certificates.next().ok_or(ChainError::Empty)?;
        Ok(Self {
            leaf,
            others: certificates.collect(),
        })
    }

    /// The certificates of a PEM file, in its order. Other sections are left out.
    ///
    /// # Errors
    /// [`ChainError::Pem`], and those of [`Chain::new`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, ChainError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        Self::new(certificates.map_err(|_| ChainError::Pem)?)
    }

    /// Reads a payload. Any bytes may be given to it.
    ///
    /// # Errors
    /// [`ChainError`] for all but exactly what [`Chain::encode`] writes.
    pub fn decode(payload: &[u8]) -> Result<Self, ChainError> {
        let (&[version, number], mut rest) =
            payload.split_first_chunk().ok_or(ChainError::Extent)?;
        if version != VERSION {
            return Err(ChainError::Version);
        }
        if usize::from(number) > MAX_CERTIFICATES {
            return Err(ChainError::TooMany);
        }
        let mut certificates = Vec::with_capacity(usize::from(number));
        for _ in 0..number {
            let (der, after) = split_certificate(rest)?;
            certificates.push(CertificateDer::from(der.to_vec()));
            rest = after;
        }
        if !rest.is_empty() {
            return Err(ChainError::Extent);
        }
        Self::new(certificates)
    }

    /// The payload that says it.
    pub fn encode(&self) -> Vec<u8> {
        // Both numbers fit: a chain is made within the bounds, and never changed.
        let number = u8::try_from(1 + self.others.len()).unwrap_or(u8::MAX);
        let mut payload = vec![VERSION, number];
        for der in std::iter::once(&self.leaf).chain(&self.others) {
            let length = u16::try_from(der.len()).unwrap_or(u16::MAX);
            payload.extend_from_slice(&length.to_be_bytes());
            payload.extend_from_slice(der);
        }
        payload
    }

    /// The certificate whose key is to be proved.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    /// What may lead from it to a CA, in no particular order.
    pub fn others(&self) -> &[CertificateDer<'static>] {
        &self.others
    }
}

fn split_certificate(bytes: &[u8]) -> Result<(&[u8], &[u8]), ChainError> {
    let (length, rest) = bytes.split_first_chunk().ok_or(ChainError::Extent)?;
    let length = usize::from(u16::from_be_bytes(*length));
    if !is_length(length) {
        return Err(ChainError::Length);
    }
    rest.split_at_checked(length).ok_or(ChainError::Extent)
}

fn is_length(length: usize) -> bool {
    (1..=MAX_CERTIFICATE).contains(&length)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn chain(lengths: &[usize]) -> Result<Chain, ChainError> {
        let certificate = |length: &usize| CertificateDer::from(vec![7; *length]);
        Chain::new(lengths.iter().map(certificate).collect())
    }

    #[test]
    fn a_payload_is_one_certificate_behind_the_other() {
        let chain = chain(&[1, 2]).unwrap();
        let payload = [1, 2, 0, 1, 7, 0, 2, 7, 7];
        assert_eq!(chain.encode(), payload);
        assert_eq!(Chain::decode(&payload), Ok(chain));
    }

    #[test]
    fn chains_are_bounded() {
        assert_eq!(chain(&[]), Err(ChainError::Empty));
        assert_eq!(chain(&[5, 0]), Err(ChainError::Length));
        assert_eq!(chain(&[MAX_CERTIFICATE + 1]), Err(ChainError::Length));
        assert_eq!(chain(&[1; MAX_CERTIFICATES + 1]), Err(ChainError::TooMany));
        assert_eq!(chain(&[MAX_CERTIFICATE; 4]), Err(ChainError::TooLong));
        let longest = [
            MAX_CERTIFICATE,
            MAX_CERTIFICATE,
            MAX_CERTIFICATE,
            MAX_CERTIFICATE - 10,
        ];
        assert_eq!(chain(&longest).unwrap().encode().len(), MAX_EXCHANGE);
    }

    #[test]
    fn bad_payloads_say_why() {
        let many = [&[1, 9][..], &[0, 1, 7].repeat(9)].concat();
        let long = [&[1, 1, 0x40, 1][..], &[7; MAX_CERTIFICATE + 1]].concat();
        for (payload, error) in [
            (&[][..], ChainError::Extent),
            (&[1], ChainError::Extent),
            (&[1, 0], ChainError::Empty),
            (&[2, 1, 0, 1, 7], ChainError::Version),
            (&[1, 1, 0, 0], ChainError::Length),
            (&[1, 1, 0], ChainError::Extent),
            (&[1, 1, 0, 2, 7], ChainError::Extent),
            (&[1, 1, 0, 1, 7, 0], ChainError::Extent),
            (&[1, 1, 0xff, 0xff, 7], ChainError::Length),
            (&many, ChainError::TooMany),
            (&long, ChainError::Length),
        ] {
            assert_eq!(Chain::decode(payload), Err(error));
        }
    }

    #[test]
    fn pem_is_read_in_order_and_other_sections_are_left_out() {
        let pem = b"Bag Attributes\n-----BEGIN CERTIFICATE-----\nAQ==\n-----END CERTIFICATE-----\n\
            -----BEGIN PRIVATE KEY-----\nAw==\n-----END PRIVATE KEY-----\n\
            -----BEGIN CERTIFICATE-----\nAg==\n-----END CERTIFICATE-----\n";
        let chain = Chain::from_pem(pem).unwrap();
        assert_eq!((chain.leaf()[0], chain.others()[0][0]), (1, 2));
        assert_eq!(Chain::from_pem(b"no PEM at all"), Err(ChainError::Empty));
        assert_eq!(Chain::from_pem(&pem[..40]), Err(ChainError::Pem));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_chain_comes_back(certificates in vec(vec(any::<u8>(), 1..200), 1..=8)) {
            let chain = Chain::new(certificates.into_iter().map(CertificateDer::from).collect());
            let chain = chain.unwrap();
            prop_assert_eq!(Chain::decode(&chain.encode()), Ok(chain));
        }

        #[test]
        fn whatever_is_read_is_what_would_be_written(
            mut payload in vec(any::<u8>(), 0..60),
            number in 0_u8..4,
        ) {
            // Two in three begin as payloads do, with short certificates.
            payload.splice(0..payload.len().min(3), [1, number, 0]);
            if let Ok(chain) = Chain::decode(&payload) {
                prop_assert_eq!(chain.encode(), payload);
            }
        }
    }
}
