//! Compiles the signer's protocol without protoc.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    let file = "taskmint/signer/v1/signer.proto";
    println!("cargo:rerun-if-changed={}", root.join(file).display());
    let descriptors = protox::compile([file], [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    prost_build::Config::new()
        .bytes([".taskmint.signer.v1.Reply.answer"])
        .out_dir(out)
        .compile_fds(descriptors)?;
    Ok(())
}
