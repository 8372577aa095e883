//! A shim with a real container, asked the way the daemon asks. Needs root, and busybox on the host.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attach;
mod client;
mod ending;
mod exec;
mod host;
mod lifecycle;
mod pod;
