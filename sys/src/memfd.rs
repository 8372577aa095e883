//! Anonymous files: memfd_create(2), sealed so that nobody changes them afterwards (CVE-2019-5736).

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{self, MemfdFlags, SealFlags};

use crate::{Error, Result};

/// A sealed memfd that holds `bytes`, at offset 0, close-on-exec. `name` shows in /proc alone.
///
/// # Errors
/// When the kernel is out of descriptors or memory.
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    // NOEXEC_SEAL is Linux 6.3.
    create(name, bytes, MemfdFlags::NOEXEC_SEAL)
}

/// As [`sealed`], and may be executed.
///
/// # Errors
/// `EACCES` where the host's vm.memfd_noexec forbids it.
pub fn sealed_executable(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    create(name, bytes, MemfdFlags::EXEC)
}

fn create(name: &str, bytes: &[u8], kind: MemfdFlags) -> Result<OwnedFd> {
    let failed = |call| move |e: rustix::io::Errno| Error::new(call, name, e);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match fs::memfd_create(name, flags | kind) {
        // A kernel without the two kinds: all memfds are executable there.
        Err(rustix::io::Errno::INVAL) => fs::memfd_create(name, flags),
        other => other,
    }
    .map_err(failed("memfd_create"))?;
    let mut file = File::from(fd);
    file.write_all(bytes).map_err(|e| Error::new("write", name, e))?;
    file.seek(SeekFrom::Start(0))
        .map_err(|e| Error::new("lseek", name, e))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fs::fcntl_add_seals(&file, seals).map_err(failed("fcntl(F_ADD_SEALS)"))?;
    Ok(file.into())
}

/// The whole content of a memfd, whatever its offset is.
///
/// # Errors
/// `EFBIG` when it holds more than `max` bytes, `EINVAL` when it is not a regular file.
pub fn read_all(fd: impl AsFd, max: usize) -> Result<Vec<u8>> {
    let file = File::from(
        fd.as_fd()
            .try_clone_to_owned()
            .map_err(|e| Error::new("dup", "memfd", e))?,
    );
    let stat = file.metadata().map_err(|e| Error::new("fstat", "memfd", e))?;
    let refuse = |errno| Error::new("read", "memfd", std::io::Error::from_raw_os_error(errno));
    if !stat.is_file() {
        return Err(refuse(libc::EINVAL));
    }
    let size = usize::try_from(stat.len())
        .ok()
        .filter(|size| *size <= max)
        .ok_or_else(|| refuse(libc::EFBIG))?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|e| Error::new("pread", "memfd", e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_content_is_read_back_and_stays() {
        let fd = sealed("test", b"plan").unwrap();
        assert_eq!(read_all(&fd, 4).unwrap(), b"plan");
        assert!(read_all(&fd, 3).unwrap_err().is(libc::EFBIG));
        let mut file = File::from(fd);
        assert_eq!(
            file.write_all(b"x").unwrap_err().raw_os_error(),
            Some(libc::EPERM)
        );
    }
}
