//! Fuzz targets: one function for each parser that meets bytes of others.
//!
//! A target takes any bytes, must not panic, and asserts what holds for whatever was accepted
//! (what is written reads back the same, two ways of reading agree). A new one is its function, a
//! line in [`TARGETS`], and seeds in `corpus/NAME/`; an input that once failed is kept there too.

mod config;
mod evidence;
mod fanout;
mod h2;
mod id;
mod join;
mod leaf;
mod sealed;
mod signer;
mod status;
mod watch;
mod wire;
mod world;

/// A target: its name, which is its corpus's too, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, by name.
pub const TARGETS: &[Target] = &[
    ("bundle", id::bundle),
    ("bundle_set", id::bundle_set),
    ("certificate", id::certificate),
    ("config_agent", config::config_agent),
    ("config_server", config::config_server),
    ("csr", id::csr),
    ("h2_authority", h2::h2_authority),
    ("join_string", join::join_string),
    ("jwk", id::jwk),
    ("jwt", id::jwt),
    ("sealed_file", sealed::sealed_file),
    ("selector", join::selector),
    ("signer_ask", signer::signer_ask),
    ("signer_reply", signer::signer_reply),
    ("spiffe_id", id::spiffe_id),
    ("status_checkpoint", status::status_checkpoint),
    ("status_delta", status::status_delta),
    ("status_head", status::status_head),
    ("status_map", status::status_map),
    ("status_serial", status::status_serial),
    ("task_binding", status::task_binding),
    ("task_claim", status::task_claim),
    ("watch_evidence", evidence::watch_evidence),
    ("watch_frames", watch::watch_frames),
    ("watch_requests", fanout::watch_requests),
    ("wire_begin", wire::wire_begin),
    ("wire_denial", wire::wire_denial),
    ("wire_entry", wire::wire_entry),
    ("wire_task", wire::wire_task),
    ("x509_svid", leaf::x509_svid),
    ("x509pop", join::x509pop),
];

/// The target of a name.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|(known, _)| *known == name)
}
