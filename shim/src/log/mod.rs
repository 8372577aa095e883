//! The container's log file, in the format that kubelet reads.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use criquet_proto::shim;

pub mod line;
pub mod time;

use time::{now_ns, stamp};

use crate::child::Failure;

/// The log file. A container without one discards what it is given.
#[derive(Debug, Default)]
pub struct Log {
    dir: PathBuf,
    path: PathBuf,
    file: Option<File>,
    /// Formatted lines of this batch.
    batch: Vec<u8>,
    /// The file ends within a line.
    torn: bool,
    /// Bytes that could not be written since the last success.
    lost: u64,
}

impl Log {
    /// Opens the file that the plan names; its folders are made.
    ///
    /// # Errors
    /// When it cannot be made, is no regular file, or lies behind a link.
    pub fn open(plan: &shim::Log) -> Result<Self, Failure> {
        let mut log = Self {
            dir: (&plan.dir).into(),
            path: (&plan.path).into(),
            ..Self::default()
        };
        if !plan.dir.is_empty() {
            log.reopen()?;
        }
        Ok(log)
    }

    /// Whether there is a file to write to.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.file.is_some()
    }

    /// Opens the path anew: somebody has moved the old file away. After a failure the old one stays in use.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn reopen(&mut self) -> Result<(), Failure> {
        if self.dir.as_os_str().is_empty() {
            return Ok(());
        }
        self.file = Some(criquet_sys::beneath::append(&self.dir, &self.path)?);
        self.torn = false;
        Ok(())
    }

    /// Where lines are appended before [`Log::commit`].
    pub fn batch(&mut self) -> &mut Vec<u8> {
        &mut self.batch
    }

    /// Writes the batch. A full disk must not stop the container: what cannot be written is dropped and counted,
    /// and the log says so once it works again.
    pub fn commit(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.file.is_none() {
            self.batch.clear();
            return;
        }
        let mut note = Vec::new();
        if self.torn {
            note.push(b'\n');
        }
        if self.lost > 0 {
            note.extend_from_slice(&stamp(now_ns()));
            let text = format!(
                " stderr F criquet: {} bytes of log could not be written and are lost\n",
                self.lost
            );
            note.extend_from_slice(text.as_bytes());
        }
        let batch = std::mem::take(&mut self.batch);
        let mut left = batch.len();
        if self.write(&note) == 0 {
            self.lost = 0;
            left = self.write(&batch);
        }
        self.lost += left as u64;
        self.batch = batch;
        self.batch.clear();
    }

    /// Writes until the kernel refuses; gives the number of bytes that are left.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(file) = &mut self.file else {
            return bytes.len();
        };
        let mut written = 0;
        while written < bytes.len() {
            match file.write(&bytes[written..]) {
                Ok(n) if n > 0 => written += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        if written > 0 {
            self.torn = bytes[written - 1] != b'\n';
        }
        bytes.len() - written
    }

    /// Gives memory back.
    pub fn trim(&mut self) {
        self.batch = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dir: &std::path::Path, path: &str) -> shim::Log {
        shim::Log {
            dir: dir.display().to_string(),
            path: path.into(),
        }
    }

    fn put(log: &mut Log, line: &str) {
        log.batch().extend_from_slice(line.as_bytes());
        log.commit();
    }

    #[test]
    fn reopens_after_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(&plan(dir.path(), "c/0.log")).unwrap();
        put(&mut log, "one\n");
        std::fs::rename(dir.path().join("c/0.log"), dir.path().join("c/0.log.1")).unwrap();
        put(&mut log, "two\n");
        log.reopen().unwrap();
        put(&mut log, "three\n");
        assert_eq!(
            std::fs::read_to_string(dir.path().join("c/0.log.1")).unwrap(),
            "one\ntwo\n"
        );
        assert_eq!(
            std::fs::read_to_string(dir.path().join("c/0.log")).unwrap(),
            "three\n"
        );
    }

    #[test]
    fn refuses_links_and_ways_out() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("c")).unwrap();
        assert!(Log::open(&plan(dir.path(), "c/0.log")).is_err());
        assert!(Log::open(&plan(dir.path(), "../0.log")).is_err());
        std::os::unix::fs::symlink("/tmp/x", dir.path().join("0.log")).unwrap();
        assert!(Log::open(&plan(dir.path(), "0.log")).is_err());
        assert!(Log::open(&plan(dir.path(), "")).is_err());
    }

    #[test]
    fn counts_what_a_full_disk_swallows() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(&plan(dir.path(), "0.log")).unwrap();
        put(&mut log, "one\n");
        log.file = Some(File::options().write(true).open("/dev/full").unwrap());
        put(&mut log, "lost\n");
        put(&mut log, "lost too\n");
        log.reopen().unwrap();
        put(&mut log, "two\n");
        put(&mut log, "three\n");
        let text = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].ends_with(" stderr F criquet: 14 bytes of log could not be written and are lost"));
        assert_eq!([lines[0], lines[2], lines[3]], ["one", "two", "three"]);
    }
}
