//! Server reflection (WEP-23): the Workload API and itself, nothing else of what is served here.

use prost::Message;
use prost_types::FileDescriptorSet;
use taskmint_wire::DESCRIPTORS;
use tonic_reflection::server::Builder;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

const FILES: [&str; 2] = ["spiffe/workload.proto", "google/protobuf/struct.proto"];

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The reflection service of the workload socket.
pub(crate) fn workload_api() -> Result<ServerReflectionServer<impl ServerReflection>, Error> {
    let mut all = FileDescriptorSet::decode(DESCRIPTORS)?;
    all.file.retain(|file| FILES.contains(&file.name()));
    Ok(Builder::configure()
        .register_file_descriptor_set(all)
        .build_v1()?)
}
