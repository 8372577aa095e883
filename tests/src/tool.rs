//! Programs that tests run, and where the repository's own are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a program said, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output, lossy UTF-8.
    pub stdout: String,
    /// Standard error, lossy UTF-8.
    pub stderr: String,
}

impl Output {
    /// What a finished program said.
    pub fn of(out: std::process::Output) -> Output {
        Output {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// The output of a program that had to succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "failed: {self:#?}");
        self.stdout
    }
}

/// Runs a program to its end.
pub fn run<S: AsRef<std::ffi::OsStr>>(program: S, arguments: &[&str]) -> Output {
    let name = program.as_ref().to_string_lossy().into_owned();
    let out = Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
    Output::of(out)
}

/// The repository's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is below the root")
        .to_path_buf()
}

/// A tool that hack/tools/build made.
pub(crate) fn go_tool(name: &str) -> PathBuf {
    let path = workspace().join(".work/bin/tools").join(name);
    assert!(
        path.exists(),
        "{} is missing: run hack/tools/build cri-tools cni",
        path.display()
    );
    path
}

/// The daemon as hack/build placed it, with its static shim beside it. CRIQUET_BIN names another folder.
pub(crate) fn daemon() -> PathBuf {
    let folder =
        std::env::var_os("CRIQUET_BIN").map_or_else(|| workspace().join(".work/bin/dev"), PathBuf::from);
    let path = folder.join("criquet");
    assert!(path.exists(), "{} is missing: run hack/build", path.display());
    path
}
