//! What derives from a P-256 key: the forms that libraries keep it in, and the nonces of its
//! signatures, which whoever has the key can compute.

use p256::elliptic_curve::PrimeField as _;
use p256::elliptic_curve::ops::Reduce as _;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::{FieldBytes, ProjectivePoint, Scalar};
use sha2::{Digest as _, Sha256};

use crate::known::Known;

/// A signature, and what was signed.
pub(crate) struct Signature {
    pub(crate) hash: [u8; 32],
    pub(crate) r: [u8; 32],
    pub(crate) s: [u8; 32],
}

impl Signature {
    /// `r || s` over a message.
    pub(crate) fn new(message: &[u8], signature: &[u8]) -> Self {
        let (r, s) = signature.split_at(32);
        Self {
            hash: Sha256::digest(message).into(),
            r: r.try_into().unwrap(),
            s: s.try_into().unwrap(),
        }
    }
}

/// A private key d: d, dR, dR², -d and -dR, where R is 2^256.
pub(crate) fn add_key(known: &mut Known, name: &str, key: &[u8; 32]) {
    let (d, r) = (scalar(key), montgomery());
    for form in [d, d * r, d * r * r, -d, -d * r] {
        known.add(name, &form.to_repr());
    }
}

/// The nonces k of signatures by one key: k, kR, -k, k⁻¹ and k⁻¹R.
pub(crate) fn add_nonces(known: &mut Known, name: &str, key: &[u8; 32], signed: &[Signature]) {
    let (d, r) = (scalar(key), montgomery());
    // s = k⁻¹ (hash + r d)
    let sums: Vec<Scalar> = signed
        .iter()
        .map(|signed| reduced(&signed.hash) + scalar(&signed.r) * d)
        .collect();
    let s: Vec<Scalar> = signed.iter().map(|signed| scalar(&signed.s)).collect();
    let all: Vec<Scalar> = sums.iter().chain(&s).copied().collect();
    let inverse = inverted(&all);
    for (at, signed) in signed.iter().enumerate() {
        let k = sums[at] * inverse[sums.len() + at];
        let inverse = s[at] * inverse[at];
        if at % 1000 == 0 {
            let point = (ProjectivePoint::GENERATOR * k).to_affine();
            let x = point.to_sec1_point(false).x().unwrap().to_owned();
            assert_eq!(reduced(&x.into()), scalar(&signed.r), "not its nonce");
        }
        for form in [k, k * r, -k, inverse, inverse * r] {
            known.add(name, &form.to_repr());
        }
    }
}

fn scalar(octets: &[u8; 32]) -> Scalar {
    Scalar::from_repr((*octets).into()).expect("below the order")
}

fn reduced(octets: &[u8; 32]) -> Scalar {
    Scalar::reduce(&FieldBytes::from(*octets))
}

/// 2^256 modulo the order.
fn montgomery() -> Scalar {
    (0..256).fold(Scalar::ONE, |power, _| power.double())
}

/// All of them by one inversion.
fn inverted(all: &[Scalar]) -> Vec<Scalar> {
    let mut products = Vec::with_capacity(all.len());
    let mut product = Scalar::ONE;
    for factor in all {
        products.push(product);
        product *= factor;
    }
    let mut rest = product.invert().unwrap();
    for (at, factor) in all.iter().enumerate().rev() {
        products[at] *= rest;
        rest *= factor;
    }
    products
}
