//! Compiles the wire contract without `protoc` and keeps its descriptor set, which
//! reflection serves.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    // From the environment of this run: the script may have been compiled in another checkout.
    let root = env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?;
    let root = PathBuf::from(root).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let files = ["order", "worker", "admin"].map(|name| format!("order/v1/{name}.proto"));
    let descriptors = protox::compile(files, [root])?;
    let out_dir = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?;
    fs::write(
        PathBuf::from(out_dir).join("order_descriptor.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        .bytes(".order.v1")
        // Equal messages have equal bytes.
        .btree_map(".order.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
