//! Random names.

use taskmint_model::Entropy;

/// Sixteen octets that name a request, never all zero.
pub(crate) fn request_id(entropy: &dyn Entropy) -> Vec<u8> {
    let mut id: [u8; 16] = entropy.array();
    id[0] |= 1;
    id.to_vec()
}
