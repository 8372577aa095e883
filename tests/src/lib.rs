//! Whole-system tests: the daemon as it is built, driven from the outside.
//!
//! Every test has a [`Node`] of its own: a network namespace, folders, a registry with the test images and a
//! daemon. When the node goes, [`leak`] looks whether anything of it is left on the machine; when the test
//! failed, everything is taken away by force.
#![forbid(unsafe_code)]
// A test that cannot go on panics with what it was doing; that is its way to fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::let_underscore_must_use,
    missing_debug_implementations
)]

mod census;
mod client;
pub mod host;
pub mod leak;
mod namespace;
mod node;
mod pod;
mod registry;
pub mod spdy;
mod terminal;
mod tool;

pub use census::Census;
pub use client::Cri;
pub use criquet_proto::cri;
pub use node::{Node, Settings};
pub use pod::{Pod, container, image, pod};
pub use registry::Registry;
pub use terminal::Terminal;
pub use tool::{Output, run, workspace};

/// The shell image that most tests run.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
/// A web server on port 80.
pub const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.14-2";
/// A tiny static program that sleeps.
pub const PAUSE: &str = "registry.k8s.io/pause:3.9";

/// What must become so is waited for at least so long, in seconds: a machine may be busy with other things.
pub const PATIENCE_S: u64 = 120;

/// Calls `check` until it returns something, and panics with `what` after `seconds`, or [`PATIENCE_S`] if that is longer.
pub fn eventually<T>(what: &str, seconds: u64, mut check: impl FnMut() -> Option<T>) -> T {
    let seconds = seconds.max(PATIENCE_S);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(std::time::Instant::now() < end, "{what}: not within {seconds} s");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
