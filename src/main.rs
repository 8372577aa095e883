//! `criquet`: the daemon and a small client for people.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    criquet::cli::main()
}
