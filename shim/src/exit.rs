//! The exit record: on disk before anybody is told.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use criquet_proto::shim::{EXIT_NAME, Exit, failed::Kind};
use criquet_sys::pidfd::Ended;
use prost::Message;

use crate::child::Failure;

/// Added to a signal's number in an exit code, as shells do.
const SIGNAL_BASE: i32 = 128;

/// Writes `exit` into the state directory: whole or not at all, and durable.
///
/// # Errors
/// A full or broken disk.
pub fn record(state_dir: &Path, exit: &Exit) -> io::Result<()> {
    let temporary = state_dir.join(".exit.new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&exit.encode_to_vec())?;
    file.sync_all()?;
    std::fs::rename(&temporary, state_dir.join(EXIT_NAME))?;
    File::open(state_dir)?.sync_all()
}

/// The exit of a process that ended so.
#[must_use]
pub fn of(ended: Ended, started_at_ns: i64, finished_at_ns: i64) -> Exit {
    let (code, signal) = match ended {
        Ended::Exited(code) => (code, 0),
        Ended::Killed(signal) => (SIGNAL_BASE + signal, signal),
    };
    Exit {
        code,
        signal,
        started_at_ns,
        finished_at_ns,
        ..Exit::default()
    }
}

/// The exit code of a container whose program could not be started, as shells give it.
#[must_use]
pub fn code_of_failure(failure: &Failure) -> i32 {
    match failure.kind {
        Kind::NotFound => 127,
        Kind::Permission => 126,
        _ => SIGNAL_BASE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let exit = of(Ended::Killed(9), 1, 2);
        record(dir.path(), &of(Ended::Exited(3), 1, 2)).unwrap();
        record(dir.path(), &exit).unwrap();
        assert_eq!(
            Exit::decode(&*std::fs::read(dir.path().join(EXIT_NAME)).unwrap()).unwrap(),
            exit
        );
        assert_eq!((exit.code, exit.signal), (137, 9));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
