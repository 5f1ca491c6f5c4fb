//! The node agent: Workload API, task API, the relay of the revocation log, and liveness.
//!
//! ```text
//!  workload ──unix socket──> listener ──> workload_api ─┐        ┌─> session ──mTLS──> server
//!                               │          task_api  ───┼─ view ─┤
//!                            caller        relay        │        └─> mint, begin, ends
//!                         (attested anew)               └─ holding, knowledge, svids
//! ```
//!
//! - The server is the truth about tasks; `holding` repeats it and knows which holders live.
//! - A caller is a process that connected, held by a pidfd; nothing that it says identifies it.
//! - Keys are made here and leave by the socket only, to a process that sees their task.
//!
//! [`serve`] runs it with everything real; [`serve_with`] takes another way to the server.

mod agent;
mod asked;
mod batch;
mod begin;
mod caller;
mod chance;
mod claims;
mod configured;
mod denial;
mod ends;
mod envoy;
mod folders;
mod header;
mod holding;
mod identity;
mod implicit;
mod join;
mod key;
mod knowledge;
mod limits;
mod listener;
mod locks;
mod metrics;
mod mint;
mod mtls;
mod order;
mod reflection;
mod relay;
mod ruling;
mod serve;
mod server;
mod session;
mod settings;
mod status;
mod stream;
mod svids;
mod task_api;
mod task_begin;
mod task_change;
mod task_read;
mod topics;
mod upstream;
mod view;
mod visibility;
mod workload_api;

pub use identity::{NodeIdentity, StateError};
pub use listener::ListenError;
pub use serve::{Running, ServeError, serve, serve_with};
pub use settings::{JoinSource, Limits, NodeProof, ServerAddress, Settings, Sockets};
pub use upstream::{Bootstrap, Upstream, UpstreamError};
