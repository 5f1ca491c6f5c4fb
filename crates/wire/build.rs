//! Compiles `proto/` without protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    let files = [
        "spiffe/workload.proto",
        "taskmint/task/v1/task.proto",
        "taskmint/node/v1/node.proto",
        "taskmint/revocation/v1/revocation.proto",
        "taskmint/admin/v1/admin.proto",
        "envoy/service/secret/v3/sds.proto",
        "envoy/service/auth/v3/external_auth.proto",
        "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    ];
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(files, [root])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), {
        use prost::Message as _;
        descriptors.encode_to_vec()
    })?;
    tonic_prost_build::configure()
        // Large payloads are shared, not copied, when one message goes to many.
        .bytes(".taskmint.revocation.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
