//! Files that must be whole and durable, or not there.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::{Error, Result};

/// Makes the entries of a directory durable (fsync(2): a new name needs this as well as the file's own fsync).
///
/// # Errors
/// The kernel's.
pub fn fsync_dir(path: &Path) -> Result<()> {
    let object = || path.display().to_string();
    File::open(path)
        .map_err(|e| Error::new("open", object(), e))?
        .sync_all()
        .map_err(|e| Error::new("fsync", object(), e))
}

/// Writes a file so that after a crash there is the old one or the whole new one: temporary name, fsync,
/// rename, fsync of the directory. Two writers of one path must not run at once.
///
/// # Errors
/// The kernel's; the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let object = || path.display().to_string();
    let invalid = || Error::new("write", object(), std::io::Error::from_raw_os_error(libc::EINVAL));
    let folder = path.parent().ok_or_else(invalid)?;
    let mut name = path.file_name().ok_or_else(invalid)?.to_owned();
    name.push(".new");
    let new = folder.join(name);
    let written = write_new(&new, bytes, mode)
        .and_then(|()| std::fs::rename(&new, path).map_err(|e| Error::new("rename", object(), e)));
    if written.is_err() {
        // The error that matters is the first one.
        drop(std::fs::remove_file(&new));
        return written;
    }
    fsync_dir(folder)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let failed = |call| move |e: std::io::Error| Error::new(call, path.display().to_string(), e);
    // What a crash left under the temporary name is nobody's.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("unlink")(e)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(failed("open"))?;
    file.write_all(bytes).map_err(failed("write"))?;
    file.sync_all().map_err(failed("fsync"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn replaces_a_file_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        std::fs::write(folder.path().join("record.new"), "half").unwrap();
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        assert!(
            write_atomic(Path::new("/no/such/folder/x"), b"", 0o600)
                .unwrap_err()
                .is(libc::ENOENT)
        );
    }
}
