//! Compiles the records' proto without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (proto, root) = ("../../proto/taskmint/store/v1/records.proto", "../../proto");
    println!("cargo:rerun-if-changed={proto}");
    let files = protox::compile([proto], [root])?;
    // Label maps sorted: equal entries have equal bytes.
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(files)?;
    Ok(())
}
