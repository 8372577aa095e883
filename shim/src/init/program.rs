//! The user's program: found, and executed.

use std::ffi::CString;
use std::os::fd::AsFd as _;

use criquet_proto::shim::failed::Kind;
use criquet_sys::process::{self, Strings};
use criquet_sys::{errno, signal};

use super::{Candidate, report};
use crate::child::Failure;

/// Where programs are looked for without a PATH in the environment (exec(3)).
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Nothing but the three streams reaches the program, and nothing but the control socket waits for the start.
pub(super) fn descriptors(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    Ok(process::close_all_but(&[candidate.control.as_fd()])?)
}

/// Everything is done that can be done before the start.
pub(super) fn wait(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    report::ready(candidate.control)?;
    if report::wait_for_release(candidate.control)? {
        return Ok(());
    }
    // Given up; nobody listens.
    process::exit(0)
}

/// As the program's user, and as late as possible: volumes may change until the start.
pub(super) fn find(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    let name = candidate.program.args.first().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Failure::invalid("no command"))?;
    let quoted = String::from_utf8_lossy(name).into_owned();
    let candidates = if name.contains(&b'/') {
        vec![name.clone()]
    } else {
        in_path(name, &candidate.program.env)
    };
    let mut denied = None;
    for path in candidates {
        let path =
            CString::new(path).map_err(|_| Failure::invalid(format!("{quoted:?} holds a zero byte")))?;
        match process::check_executable(&path) {
            Ok(()) => {
                candidate.path = Some(path);
                return Ok(());
            }
            Err(error) if error.is(errno::ENOENT) || error.is(errno::ENOTDIR) => {}
            Err(error) => denied = Some(error),
        }
    }
    Err(match denied {
        Some(error) => program_failure(&quoted, &error),
        None if name.contains(&b'/') => Failure {
            kind: Kind::NotFound,
            message: format!("{quoted:?}: no such file or directory"),
        },
        None => Failure {
            kind: Kind::NotFound,
            message: format!("{quoted:?}: executable file not found in $PATH"),
        },
    })
}

fn in_path(name: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let path = env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH);
    let folders = path
        .split(|c| *c == b':')
        .map(|folder| if folder.is_empty() { b"." } else { folder });
    folders.map(|folder| [folder, b"/", name].concat()).collect()
}

fn program_failure(quoted: &str, error: &criquet_sys::Error) -> Failure {
    let kind = match error.errno() {
        Some(errno::ENOENT | errno::ENOTDIR) => Kind::NotFound,
        Some(errno::EACCES | errno::EPERM) => Kind::Permission,
        _ => Kind::Invalid,
    };
    Failure {
        kind,
        message: format!("{quoted:?}: {}", reason(error)),
    }
}

/// The kernel's answer in lower case, without Rust's suffix.
fn reason(error: &criquet_sys::Error) -> String {
    let text = error.source.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

/// A program starts with no signal blocked or ignored.
pub(super) fn signals(_: &mut Candidate<'_>) -> Result<(), Failure> {
    signal::reset_all();
    Ok(signal::unblock_all()?)
}

pub(super) fn execute(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    let path = candidate
        .path
        .take()
        .ok_or_else(|| Failure::invalid("no command"))?;
    let arguments = Strings::new(candidate.program.args.iter().cloned())?;
    let environment = Strings::new(candidate.program.env.iter().cloned())?;
    let error = process::execute(&path, &arguments, &environment);
    let name = candidate
        .program
        .args
        .first()
        .map(Vec::as_slice)
        .unwrap_or_default();
    Err(program_failure(&String::from_utf8_lossy(name), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_path_of_the_environment_counts() {
        let env = [b"PATH=/a".to_vec(), b"PATHS=/x".to_vec(), b"PATH=/b::/c".to_vec()];
        assert_eq!(
            in_path(b"p", &env),
            [b"/b/p".to_vec(), b"./p".to_vec(), b"/c/p".to_vec()]
        );
        assert_eq!(in_path(b"p", &[]).len(), 6);
    }
}
