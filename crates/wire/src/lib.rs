//! Generated types of the wire, and conversions at the edge: `TryFrom` in, `From` out.
//!
//! Nothing below the edge names these types.

mod admin_convert;
mod denied;
mod task_convert;

pub use admin_convert::{entry_from_wire, entry_to_agent, entry_to_wire, selectors_from_wire};
pub use denied::{DENIAL_DOMAIN, Denied, denial_of, retry_after_of};
pub use task_convert::{
    BadField, authority_from_wire, binding_from_wire, field, optional, task_from_wire,
};

/// `taskmint.*`, as generated.
#[allow(
    clippy::all,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "generated"
)]
pub mod taskmint {
    /// Tasks, for workloads.
    pub mod task {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("taskmint.task.v1");
        }
    }
    /// Nodes.
    pub mod node {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("taskmint.node.v1");
        }
    }
    /// The revocation log.
    pub mod revocation {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("taskmint.revocation.v1");
        }
    }
    /// Administration.
    pub mod admin {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("taskmint.admin.v1");
        }
    }
}

pub use taskmint::task::v1 as task;
pub use taskmint::{admin::v1 as admin, node::v1 as node, revocation::v1 as revocation};

/// The SPIFFE Workload API, as generated. Its proto has no package.
#[allow(clippy::all, missing_docs, unreachable_pub, reason = "generated")]
pub mod workload {
    tonic::include_proto!("_");
}

mod envoy_generated;

/// What Envoy speaks: secret discovery and external authorization, in part.
pub mod envoy {
    pub use crate::envoy_generated::envoy::config::core::v3 as core;
    pub use crate::envoy_generated::envoy::extensions::transport_sockets::tls::v3 as tls;
    pub use crate::envoy_generated::envoy::service::auth::v3 as auth;
    pub use crate::envoy_generated::envoy::service::discovery::v3 as discovery;
    pub use crate::envoy_generated::envoy::service::secret::v3 as secret;
    pub use crate::envoy_generated::envoy::r#type::v3 as status;
    pub use crate::envoy_generated::google::rpc;
}

/// All descriptors, for server reflection (WEP-23).
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
