//! What lets a node in: join strings, the certificates it shows, and what it was attested to be.

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use taskmint_attest::{AttestError, Exchange, NodeAttestor as _, ServerContext, async_trait};
use taskmint_client::bootstrap::JoinString;
use taskmint_model::{Entropy, Selector, Timestamp};
use taskmint_node_x509pop::{Chain, X509PopAttestor};

/// A join string that was read is read the same from what is written of it, and so is a body with
/// a checksum that is right, which no fuzzer would guess.
pub fn join_string(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        again(text);
    }
    let prefix = "taskmint-join-v1:example.org:";
    let sum = Sha256::new_with_prefix(prefix)
        .chain_update(data)
        .finalize();
    let body = [data, &sum[..4]].concat();
    again(&format!("{prefix}{}", BASE64_URL_SAFE_NO_PAD.encode(body)));
}

fn again(text: &str) {
    let Ok(join) = text.parse::<JoinString>() else {
        return;
    };
    let written = join.to_text().expect("what was read");
    assert!(
        text.chars()
            .filter(|c| !c.is_ascii_whitespace())
            .eq(written.chars())
    );
    assert_eq!(written.parse(), Ok(join));
}

/// A selector is its text, and is what its two parts make.
pub fn selector(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(selector) = text.parse::<Selector>() else {
        return;
    };
    assert_eq!(selector.to_string(), text);
    assert_eq!(
        Selector::new(selector.kind(), selector.value()),
        Ok(selector)
    );
}

/// Chains have one form, and whatever chain is shown: who has no key is never attested.
pub fn x509pop(data: &[u8]) {
    if let Ok(chain) = Chain::decode(data) {
        assert_eq!(chain.encode(), data);
    }
    let context = ServerContext {
        trust_domain: "other.example",
        node_spki: b"key",
        tls_exporter: [7; 32],
        // When the certificate of the vectors was valid.
        now: Timestamp::from_secs(1_781_949_600),
    };
    let mut exchange = Answer(data);
    let attest = pin!(ATTESTOR.attest(&context, data, &mut exchange));
    let Poll::Ready(outcome) = attest.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("waits, though the answer is there");
    };
    assert!(outcome.expect_err("nobody has the key").is_refusal());
}

static ATTESTOR: LazyLock<X509PopAttestor> = LazyLock::new(|| {
    let ca = include_bytes!("../../vectors/svid-ca.pem");
    X509PopAttestor::from_pem(&[ca.to_vec()], Arc::new(Same)).expect("a CA")
});

/// Answers with the end of the input.
struct Answer<'a>(&'a [u8]);

#[async_trait]
impl Exchange for Answer<'_> {
    async fn challenge(&mut self, _: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.iter().rev().take(72).rev().copied().collect())
    }
}

/// The same octets each time, so that an input does the same each time.
struct Same;

impl Entropy for Same {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(9);
    }
}
