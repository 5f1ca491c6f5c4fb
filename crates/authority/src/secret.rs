//! Key bytes that leave no copies.

use taskmint_secret::SecretBox;

/// Key bytes in secret memory. What fills them runs on the secret stack; what looks at them must.
pub(crate) type Secret<const N: usize> = SecretBox<[u8; N]>;
