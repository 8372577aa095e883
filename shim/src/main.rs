//! `criquet-shim`: started by the daemon, once per container.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    criquet_shim::run(std::env::args())
}
