//! Images that want out, and what is left behind.

use std::os::fd::AsFd as _;

use crate::container::Container;
use criquet_proto::shim::{Mount, failed::Kind};

pub(crate) fn hostile_images() {
    let link = |name: &str, to: &str| {
        let container = Container::new();
        let path = container.lower().join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).unwrap();
        }
        std::os::unix::fs::symlink(to, path).unwrap();
        container
    };
    for name in ["proc", "sys", "dev"] {
        for to in ["/tmp", "../../../..", "elsewhere"] {
            let failure = link(name, to).fails();
            assert_eq!(failure.kind, Kind::SafetyViolation, "{failure:?}");
        }
        let mut container = Container::new();
        std::fs::remove_dir_all(container.lower().join(name)).unwrap();
        container.file(name, "", 0o644);
        assert!(matches!(
            container.fails().kind,
            Kind::SafetyViolation | Kind::Internal
        ));
    }
    // A volume through a link stays inside.
    let mut container = link("out", "../../../../../../tmp");
    let volume = container.folder("volume");
    container.mount(Mount {
        source: volume.display().to_string(),
        target: "/out/criquet-inside".into(),
        ..Default::default()
    });
    container.shell("true");
    assert!(!std::path::Path::new("/tmp/criquet-inside").exists());
    assert!(container.upper().join("tmp/criquet-inside").exists());
    // Not onto procfs, also not by a link.
    for target in ["/proc/sys", "/alias/self/attr"] {
        let mut container = link("alias", "/proc");
        let volume = container.folder("volume");
        container.mount(Mount {
            source: volume.display().to_string(),
            target: target.into(),
            ..Default::default()
        });
        assert_eq!(container.fails().kind, Kind::SafetyViolation);
    }
    // CVE-2024-21626
    for cwd in ["/proc/self/fd/3", "/proc/self/cwd/x"] {
        let mut container = Container::new();
        container.process().cwd = cwd.into();
        assert!(matches!(
            container.fails().kind,
            Kind::SafetyViolation | Kind::NotFound
        ));
    }
}

/// Set where the test has a mount namespace of its own: what others on this machine mount is not counted there.
const ALONE: &str = "CRIQUET_TEST_ALONE";

pub(crate) fn nothing_is_left() {
    if std::env::var_os(ALONE).is_some() {
        return nothing_is_left_alone();
    }
    let ended = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .arg("nothing_is_left")
        .env(ALONE, "1")
        .status();
    assert!(ended.unwrap().success());
}

fn nothing_is_left_alone() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (descriptors_before, mounts_before) = (descriptors(), mounts());
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        let mut running = container.start("sleep 100");
        running.exec(&["true"]);
        running.kill();
        container.process().cwd = "/proc/self/fd/1".into();
        container.fails();
        let _ = criquet_sys::namespace::current(criquet_sys::namespace::Kind::Mount)
            .unwrap()
            .as_fd();
    }
    assert_eq!(descriptors(), descriptors_before);
    // Others' may go: a mount point that is removed takes its mounts along everywhere.
    let known: Vec<&str> = mounts_before.lines().collect();
    let now = mounts();
    let new: Vec<&str> = now.lines().filter(|mount| !known.contains(mount)).collect();
    assert!(new.is_empty(), "{new:?}");
}

/// CVE-2021-30465: a mount point below a volume is a folder now and a link to the host then.
pub(crate) fn swapped_mount_points() {
    const ROUNDS: u32 = 60;
    let mut container = Container::new();
    let (shared, inner, canary) = (
        container.folder("shared"),
        container.folder("inner"),
        container.folder("canary"),
    );
    let script = "while :; do rm -rf target; ln -s \"$1\" target; rm target; ln -s \"../../../../../../..$1\" target; rm target; mkdir target; done";
    let mut racer = std::process::Command::new("/bin/sh")
        .args(["-c", script, "racer"])
        .arg(&canary)
        .current_dir(&shared)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let bind = |source: &std::path::Path, target: &str| Mount {
        source: source.display().to_string(),
        target: target.into(),
        ..Default::default()
    };
    container.mount(bind(&shared, "/vol"));
    container.mount(bind(&inner, "/vol/target/deep"));
    container.process().cwd = "/vol/target/cwd".into();
    let mut made = 0;
    for _ in 0..ROUNDS {
        if let Ok(waiting) = container.create() {
            made += 1;
            let pidfd = waiting.child.pidfd.try_clone().unwrap();
            drop(waiting);
            criquet_sys::process::reap(pidfd).unwrap();
        }
    }
    racer.kill().unwrap();
    racer.wait().unwrap();
    println!("{made} of {ROUNDS} were made");
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
}
