//! What must not change on the host: a tree of every kind of file, and the files that escapes of others have hit.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use criquet_tests::{Node, host};

use crate::hostile::digest;

/// A folder on the host that nobody but the test knows.
pub(crate) struct Canary {
    pub(crate) folder: PathBuf,
    before: Vec<String>,
}

impl Canary {
    pub(crate) fn of(node: &Node) -> Canary {
        let folder = node.work().join("canary");
        fs::create_dir_all(folder.join("private")).expect("create the canary");
        fs::set_permissions(folder.join("private"), fs::Permissions::from_mode(0o700)).expect("chmod");
        for name in ["file", "setuid", "passwd", "private/secret"] {
            fs::write(folder.join(name), "canary\n").expect("write the canary");
        }
        fs::set_permissions(folder.join("setuid"), fs::Permissions::from_mode(0o4755)).expect("chmod");
        symlink("file", folder.join("link")).expect("link the canary");
        let mut canary = Canary {
            folder,
            before: Vec::new(),
        };
        canary.before = canary.look();
        canary
    }

    /// Its path, or that of something in it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder
            .join(name)
            .display()
            .to_string()
            .trim_end_matches('/')
            .to_string()
    }

    fn look(&self) -> Vec<String> {
        let mut seen: Vec<String> = host::tree(&self.folder)
            .iter()
            .chain([&self.path("")])
            .map(|path| state(Path::new(path)))
            .collect();
        let files = [
            "/etc/passwd",
            "/etc/resolv.conf",
            "/etc/hosts",
            "/etc/hostname",
            "/proc/sys/kernel/core_pattern",
        ];
        seen.extend(files.iter().map(|path| state(Path::new(path))));
        seen.extend(
            ["/dev/null", "/dev/console", "/dev/ptmx"]
                .iter()
                .map(|path| kind(Path::new(path))),
        );
        seen.sort();
        seen
    }

    /// Panics when something is not as it was.
    #[track_caller]
    pub(crate) fn assert_unchanged(&self) {
        assert_eq!(self.look(), self.before, "the host was changed");
    }
}

fn kind(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Ok(seen) => format!("{} {:o} {}", path.display(), seen.mode(), seen.rdev()),
        Err(error) => format!("{} {error}", path.display()),
    }
}

fn state(path: &Path) -> String {
    let Ok(seen) = fs::symlink_metadata(path) else {
        return format!("{} missing", path.display());
    };
    let content = if seen.is_file() {
        digest(&fs::read(path).unwrap_or_default())
    } else {
        String::new()
    };
    format!(
        "{} {:o} {}:{} {} {content}",
        path.display(),
        seen.mode(),
        seen.uid(),
        seen.gid(),
        seen.nlink()
    )
}
