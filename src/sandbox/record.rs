//! A sandbox as it is kept: its record on disk and its object in memory.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use criquet_network::Attachment;
use serde::{Deserialize, Serialize};

use super::config::SandboxConfig;
use crate::stats::rate::Rate;

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Being made. After a crash it is taken away.
    Creating,
    /// Containers can be made in it.
    Ready,
    /// Being stopped, or its init has ended: nothing can be made in it any more. After a crash that is finished.
    Stopping,
    /// Stopped: no process, no network.
    NotReady,
    /// Being taken away. After a crash that is finished.
    Removing,
}

/// The process that is pid 1 of a shared pid namespace.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PodInit {
    /// As the host sees it.
    pub pid: i32,
    /// In clock ticks since boot; with the pid it is an identity until the next boot.
    pub start_time: u64,
}

/// The durable record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// As requested.
    pub config: SandboxConfig,
    /// Nanoseconds since 1970.
    pub created_at_ns: i64,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its addresses; empty on the host's network.
    pub attachment: Attachment,
    /// Only with a shared pid namespace.
    pub pod_init: Option<PodInit>,
    /// The boot in which its namespaces were made.
    pub boot_id: String,
}

/// A sandbox.
#[derive(Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// As requested; never changes.
    pub config: SandboxConfig,
    /// Nanoseconds since 1970.
    pub created_at_ns: i64,
    /// Volatile files: `ns/`, `pod/`.
    pub dir: PathBuf,
    record: Mutex<Record>,
    /// Its processor time at the last look, to tell a rate.
    pub rate: Rate,
    /// One operation at a time; readers do not take it.
    pub turn: tokio::sync::Mutex<()>,
}

impl Sandbox {
    /// The object of a record.
    #[must_use]
    pub fn new(id: String, record: Record, dir: PathBuf) -> Self {
        Self {
            id,
            config: record.config.clone(),
            created_at_ns: record.created_at_ns,
            dir,
            record: Mutex::new(record),
            rate: Rate::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// A copy of the record as it is now.
    #[must_use]
    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    /// Changes the record in memory and returns it, to be written.
    pub fn change(&self, change: impl FnOnce(&mut Record)) -> Record {
        let mut record = self.lock();
        change(&mut record);
        record.clone()
    }

    /// Where it is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Its addresses.
    #[must_use]
    pub fn attachment(&self) -> Attachment {
        self.lock().attachment.clone()
    }

    /// The file at which a namespace is pinned: `net`, `ipc`, `uts`, `pid`, `user`.
    #[must_use]
    pub fn namespace_path(&self, kind: &str) -> PathBuf {
        namespace_path(&self.dir, kind)
    }

    /// The pod's own tmpfs, with `shm/` and the files of /etc.
    #[must_use]
    pub fn files_dir(&self) -> PathBuf {
        files_dir(&self.dir)
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Sandbox::namespace_path`].
#[must_use]
pub fn namespace_path(dir: &Path, kind: &str) -> PathBuf {
    dir.join("ns").join(kind)
}

/// See [`Sandbox::files_dir`].
#[must_use]
pub fn files_dir(dir: &Path) -> PathBuf {
    dir.join("pod")
}
