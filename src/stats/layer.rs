//! What a writable layer holds: counted by walking it, hence remembered for a while.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::container::record::Container;
use crate::runtime::Runtime;

/// How long a count is told again; containerd's default period.
const COUNT_LIFETIME: Duration = Duration::from_secs(10);
/// Bytes of a block of st_blocks, inode(7).
const BLOCK_BYTES: u64 = 512;

/// Bytes and inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// On disk.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// The last count.
#[derive(Debug, Default)]
pub struct Counted(Mutex<Option<(Instant, Used)>>);

impl Runtime {
    /// What a container's writable layer holds; at most ten seconds old.
    pub async fn writable_layer(&self, container: &Arc<Container>) -> Used {
        let last = *container.layer.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, used)) = last
            && at.elapsed() < COUNT_LIFETIME
        {
            return used;
        }
        let upper = container.root.join("upper");
        let used = tokio::task::spawn_blocking(move || count(&upper))
            .await
            .unwrap_or_default();
        *container.layer.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), used));
        used
    }

    /// What all writable layers hold.
    pub async fn writable_layers(&self) -> Used {
        let mut sum = Used::default();
        for container in self.containers.all() {
            let used = self.writable_layer(&container).await;
            sum.bytes += used.bytes;
            sum.inodes += used.inodes;
        }
        sum
    }
}

/// Walks a folder; a hard link counts once. What vanishes meanwhile does not count.
fn count(root: &Path) -> Used {
    let mut used = Used::default();
    let mut linked = HashSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            // Of the entry itself, never of what a link points to.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.nlink() > 1 && !metadata.is_dir() && !linked.insert(metadata.ino()) {
                continue;
            }
            used.bytes += metadata.blocks() * BLOCK_BYTES;
            used.inodes += 1;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_files_folders_and_hard_links_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/f"), vec![1u8; 8192]).unwrap();
        std::fs::hard_link(dir.path().join("d/f"), dir.path().join("g")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("l")).unwrap();
        let used = count(dir.path());
        assert_eq!(used.inodes, 3);
        assert!(used.bytes >= 8192, "{used:?}");
        assert_eq!(count(Path::new("/nonexistent")), Used::default());
    }
}
