//! Free text that people write and logs repeat: bounded, and without control characters.

/// Why a free text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Longer than its bound.
    #[error("{name} has {len} bytes; at most {max} are accepted")]
    TooLong {
        /// Which text.
        name: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// More items than a list may have.
    #[error("at most {max} {name}s are accepted")]
    TooMany {
        /// Which kind of item.
        name: &'static str,
        /// The bound.
        max: usize,
    },
    /// A control character could forge lines in a terminal or a log.
    #[error("{name} contains a control character")]
    Control {
        /// Which text.
        name: &'static str,
    },
    /// Nothing where something is needed.
    #[error("{name} is empty")]
    Empty {
        /// Which text.
        name: &'static str,
    },
}

/// Checks that `text` has at most `max` bytes and no control character.
///
/// # Errors
/// Says which text, and what is wrong with it.
pub fn bounded(name: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    if text.len() > max {
        return Err(TextError::TooLong {
            name,
            len: text.len(),
            max,
        });
    }
    if text.chars().any(char::is_control) {
        return Err(TextError::Control { name });
    }
    Ok(())
}
