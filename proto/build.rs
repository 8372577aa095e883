//! Compiles the .proto files of this folder without protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=shim/shim.proto");
    println!("cargo::rerun-if-changed=cri/runtime.proto");
    println!("cargo::rerun-if-changed=admin/admin.proto");
    let shim = protox::compile(["shim/shim.proto"], ["shim"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .compile_fds(shim)?;
    if std::env::var_os("CARGO_FEATURE_CRI").is_some() {
        let cri = protox::compile(["cri/runtime.proto"], ["cri"])?;
        tonic_prost_build::configure()
            .generate_default_stubs(true)
            .compile_fds(cri)?;
        let admin = protox::compile(["admin/admin.proto"], ["admin"])?;
        tonic_prost_build::configure().compile_fds(admin)?;
    }
    Ok(())
}
