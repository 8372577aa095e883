//! Whether mounts made in a container can reach the host at all.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::fault::{Fault, Kind, OrFault, Result};

/// Refuses a bidirectional volume whose host mount is not shared: the kernel would take it, and nothing would
/// ever propagate (mount_namespaces(7)).
pub(super) fn require_shared(path: &Path) -> Result<()> {
    let real = path
        .canonicalize()
        .or_fault(Kind::FailedPrecondition, || format!("looking at {path:?}"))?;
    let table = std::fs::read("/proc/self/mountinfo").or_internal(|| "reading the mount table".into())?;
    match is_shared(&table, &real) {
        true => Ok(()),
        false => Err(Fault::failed_precondition(format!(
            "bidirectional propagation needs a shared mount, but {path:?} is not on one"
        ))),
    }
}

/// Whether the mount that holds `path` (the last of the longest mount points above it) has peers, proc(5).
fn is_shared(table: &[u8], path: &Path) -> bool {
    let mut best: Option<(usize, bool)> = None;
    for line in table.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let Some(mount) = fields.nth(4).map(unescape) else {
            continue;
        };
        let mount = Path::new(std::ffi::OsStr::from_bytes(&mount)).to_owned();
        if !path.starts_with(&mount) {
            continue;
        }
        // After the options come the tags, up to a lone dash.
        let shared = fields
            .skip(1)
            .take_while(|field| *field != b"-")
            .any(|field| field.starts_with(b"shared:"));
        let length = mount.as_os_str().len();
        if best.is_none_or(|(longest, _)| length >= longest) {
            best = Some((length, shared));
        }
    }
    best.is_some_and(|(_, shared)| shared)
}

/// `\040` and the like, as the kernel writes blanks in mount tables.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => out.push(*first),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let table = b"\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /run rw,nosuid - tmpfs tmpfs rw
31 30 0:31 / /run/my\\040vol rw master:3 shared:9 - tmpfs tmpfs rw
32 22 0:32 / /mnt rw shared:4 - tmpfs tmpfs rw
33 32 0:33 / /mnt rw master:4 - tmpfs tmpfs rw
";
        for (path, want) in [
            ("/etc", true),
            ("/run/x", false),
            ("/run/my vol/x", true),
            ("/runner", true),
            ("/mnt/x", false),
        ] {
            assert_eq!(is_shared(table, Path::new(path)), want, "{path}");
        }
        assert!(!is_shared(b"", Path::new("/")));
    }
}
