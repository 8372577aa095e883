//! What an administrator installs: the unit's protocol with systemd, wiping a node, manual pages, the package.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::let_underscore_must_use)]

mod install;
mod manual;
mod notify;
mod package;
mod wipe;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// The folder of the programs that are tested; CRIQUET_BIN names another.
fn programs() -> PathBuf {
    std::env::var_os("CRIQUET_BIN")
        .map_or_else(|| criquet_tests::workspace().join(".work/bin/dev"), PathBuf::from)
}

fn daemon() -> PathBuf {
    programs().join("criquet")
}

/// A folder that hack/sweep takes away when this test is killed. Nodes have the numbers below.
fn folder(parent: &str) -> tempfile::TempDir {
    static NEXT: AtomicU32 = AtomicU32::new(900);
    let name = format!(
        "criquet-test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    tempfile::Builder::new()
        .prefix(&name)
        .rand_bytes(0)
        .tempdir_in(parent)
        .unwrap()
}
