//! The file system that a container writes to, and the names of block devices.

use std::path::Path;

use super::files::Device;

/// A file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its device, as [`name`] tells it.
    pub device: String,
    /// Bytes in all.
    pub bytes: u64,
    /// Inodes in all; 0 where the file system makes them as needed.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

/// The file system that `path` is on.
#[must_use]
pub fn disk(path: &Path) -> Option<Disk> {
    let space = rustix::fs::statvfs(path).ok()?;
    let number = rustix::fs::stat(path).ok()?.st_dev;
    Some(Disk {
        device: name((rustix::fs::major(number), rustix::fs::minor(number))),
        bytes: space.f_blocks.saturating_mul(space.f_frsize),
        inodes: space.f_files,
        inodes_free: space.f_ffree,
    })
}

/// `/dev/sda1`, or `0:45` for what is no block device.
#[must_use]
pub fn name((major, minor): Device) -> String {
    let path = format!("/sys/dev/block/{major}:{minor}/uevent");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map_or_else(|| format!("{major}:{minor}"), |name| format!("/dev/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_a_size_and_a_device() {
        let disk = disk(Path::new("/proc/self")).unwrap();
        assert!(disk.device.starts_with("0:"), "{disk:?}");
        let root = super::disk(Path::new("/")).unwrap();
        assert!(root.bytes > 0 && !root.device.is_empty(), "{root:?}");
        assert_eq!(super::disk(Path::new("/nonexistent")), None);
    }
}
