//! `criquet-shim`: started by the daemon, once per container.
#![forbid(unsafe_code)]

fn main() {}
