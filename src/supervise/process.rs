//! Shims and pods' inits as processes: found by the id in their command line, when there is no connection.

use std::path::Path;
use std::time::Duration;

use criquet_sys::signal::SIGKILL;
use criquet_sys::{pidfd, process};

use crate::fault::{Fault, OrFault, Result};

/// The command line of ours: a program's name, maybe a role, and an id.
const COMMAND_BYTES_MAX: usize = 256;
/// What ours begin with.
const PROGRAM_PREFIX: &[u8] = b"criquet-";
/// A killed process is gone within this, unless it hangs in the kernel.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// A process that is killed may just have forked: so often it is looked again.
const ROUNDS_MAX: u32 = 10;

/// Kills every process that was started for the container or pod `id`: a shim, also a stopped one, its children
/// that are not yet the user's program, a pod's init. None there: done. Blocks.
///
/// # Errors
/// `DeadlineExceeded`: one does not end.
pub fn kill_all(id: &str) -> Result<()> {
    for _ in 0..ROUNDS_MAX {
        let found = processes(id)?;
        if found.is_empty() {
            return Ok(());
        }
        for pid in found {
            let Ok(handle) = pidfd::open(pid) else { continue };
            // Opened first, looked at second: the handle cannot change its process any more.
            if !is_of(pid, id) {
                continue;
            }
            // ESRCH: it ended by itself.
            pidfd::signal(&handle, SIGKILL).ok();
            let ended = process::wait_readable(&handle, END_DEADLINE);
            if !ended.or_internal(|| format!("watching process {pid}"))? {
                return Err(Fault::deadline_exceeded(format!(
                    "process {pid} of {id:?} does not end when killed"
                )));
            }
        }
    }
    Err(Fault::internal(format!(
        "processes of {id:?} come again and again"
    )))
}

fn processes(id: &str) -> Result<Vec<i32>> {
    let entries = std::fs::read_dir("/proc").or_internal(|| "listing processes".into())?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter(|pid| is_of(*pid, id)).collect())
}

fn is_of(pid: i32, id: &str) -> bool {
    command_line(pid).is_some_and(|line| names(&line, id))
}

fn command_line(pid: i32) -> Option<Vec<u8>> {
    use std::io::Read;
    let file = std::fs::File::open(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
    let mut line = Vec::new();
    file.take(COMMAND_BYTES_MAX as u64).read_to_end(&mut line).ok()?;
    Some(line)
}

fn names(line: &[u8], id: &str) -> bool {
    let Some(line) = line.strip_suffix(b"\0") else {
        return false;
    };
    line.starts_with(PROGRAM_PREFIX) && line.rsplit(|byte| *byte == 0).next() == Some(id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ours_with_that_id_are_meant() {
        assert!(names(b"criquet-shim\0abc\0", "abc"));
        assert!(names(b"criquet-pod\0pod\0abc\0", "abc"));
        for other in [
            &b"criquet-shim\0abcd\0"[..],
            b"sh\0abc\0",
            b"criquet-shim\0abc\0x\0",
            b"",
            b"criquet-shim\0abc",
        ] {
            assert!(!names(other, "abc"));
        }
        assert!(kill_all("no such id").is_ok());
    }
}
