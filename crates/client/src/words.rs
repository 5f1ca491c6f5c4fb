//! Errors in one line, for people.

use std::error::Error;

/// An error and its causes, each once: transports repeat themselves.
pub fn in_words(error: &dyn Error) -> String {
    with_causes(error.to_string(), error)
}

/// What was made of an error, and after it the causes that it does not name already.
pub(crate) fn with_causes(mut text: String, error: &dyn Error) -> String {
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Self>>,
    }

    fn layers(texts: &[&'static str]) -> Layer {
        let (text, below) = texts.split_first().unwrap();
        let source = (!below.is_empty()).then(|| Box::new(layers(below)));
        Layer { text, source }
    }

    #[test]
    fn each_cause_is_told_once() {
        for (texts, words) in [
            (&["can't connect"][..], "can't connect"),
            (&["no SVID", "no key"], "no SVID: no key"),
            (&["dial", "io: refused", "refused"], "dial: io: refused"),
            (
                &["refused by peer", "refused", "again"],
                "refused by peer: again",
            ),
        ] {
            assert_eq!(in_words(&layers(texts)), words);
        }
    }
}
