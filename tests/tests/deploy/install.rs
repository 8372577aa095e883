//! deploy/install, the unit, the examples.

use std::fs;
use std::process::Command;

use criquet_tests::{Output, host, run, workspace};

use crate::{daemon, programs};

fn install(dest: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(workspace().join("deploy/install"));
    command
        .env("DESTDIR", dest)
        .args(arguments)
        .arg("--from")
        .arg(programs());
    Output::of(command.output().unwrap())
}

#[test]
fn a_checkout_installs_and_uninstalls() {
    let folder = tempfile::tempdir().unwrap();
    for (name, prefix, unit) in [
        ("default", "/usr/local", "usr/local/lib/systemd/system"),
        ("opt", "/opt/criquet", "etc/systemd/system"),
    ] {
        let dest = folder.path().join(name);
        let arguments = if name == "default" {
            vec![]
        } else {
            vec!["--prefix", prefix]
        };
        install(&dest, &arguments).ok();
        let below = dest.join(prefix.trim_start_matches('/'));
        let config = dest.join("etc/criquet/config.toml");
        assert!(
            run(below.join("bin/criquet"), &["--version"])
                .ok()
                .starts_with("criquet ")
        );
        run(
            below.join("bin/criquet"),
            &["config", "check", "--config", config.to_str().unwrap()],
        )
        .ok();
        for file in [
            "bin/criquet-shim",
            "share/man/man1/criquet.1",
            "share/man/man5/criquet.toml.5",
            "share/zsh/site-functions/_criquet",
        ] {
            assert!(below.join(file).is_file(), "{file}");
        }
        let unit = fs::read_to_string(dest.join(unit).join("criquet.service")).unwrap();
        assert!(
            unit.contains(&format!("\nExecStart={prefix}/bin/criquet serve\n")),
            "{unit}"
        );
        // What an administrator wrote stays, twice.
        fs::write(&config, "# mine\n").unwrap();
        install(&dest, &arguments).ok();
        install(&dest, &[&arguments[..], &["--uninstall"]].concat()).ok();
        assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");
        fs::remove_dir_all(dest.join("etc/criquet")).unwrap();
        fs::remove_file(dest.join("etc/crictl.yaml")).unwrap();
        let left = host::tree(&dest)
            .into_iter()
            .filter(|path| fs::metadata(path).is_ok_and(|file| file.is_file()));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["--prefix"][..], &["--prefix", "relative"], &["--what"]] {
        let refused = run(workspace().join("deploy/install"), arguments);
        assert_eq!(refused.code, 2, "{refused:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// systemd's own reader; what it says of programs and manual pages that are not here is no matter.
#[test]
fn systemd_understands_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(workspace().join("deploy/criquet.service")).unwrap();
    let file = folder.path().join("criquet.service");
    let verify = |text: &str| {
        fs::write(
            &file,
            text.replace("/usr/bin/criquet", daemon().to_str().unwrap()),
        )
        .unwrap();
        run("systemd-analyze", &["verify", "--man=no", file.to_str().unwrap()])
    };
    let said = verify(&text);
    assert_eq!(
        (said.code, said.stderr.contains("criquet.service:")),
        (0, false),
        "{said:?}"
    );
    let said = verify(&text.replace("WatchdogSec=2min", "WatchdogSeconds=2min"));
    assert!(said.stderr.contains("WatchdogSeconds"), "{said:?}");
}

/// A mount namespace of the unit's own, or what containers inherit, is in no setting; see the unit's comment.
#[test]
fn the_unit_takes_nothing_from_containers() {
    let text = fs::read_to_string(workspace().join("deploy/criquet.service")).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let setting = line.split('=').next().unwrap_or_default();
        for bad in [
            "Protect",
            "Private",
            "Restrict",
            "ReadWrite",
            "ReadOnly",
            "SystemCall",
            "NoNewPrivileges",
            "Capability",
            "RuntimeDirectory",
            "StateDirectory",
            "MountFlags",
            "User",
            "RootDirectory",
        ] {
            assert!(!setting.starts_with(bad), "{line}");
        }
    }
    for needed in ["Type=notify", "KillMode=process", "Delegate=yes", "WatchdogSec="] {
        assert!(text.lines().any(|line| line.starts_with(needed)), "{needed}");
    }
}

/// The handler of the example's RuntimeClass is one that its drop-in gives.
#[test]
fn the_runtime_class_has_its_handler() {
    let folder = workspace().join("deploy/runtimeclass");
    let class = fs::read_to_string(folder.join("criquet.yaml")).unwrap();
    let handler = class
        .lines()
        .find_map(|line| line.strip_prefix("handler: "))
        .unwrap();
    let drop_in = folder.join("handlers.toml");
    assert!(
        fs::read_to_string(&drop_in)
            .unwrap()
            .contains(&format!("handlers = [\"{handler}\"]"))
    );
    run(
        daemon(),
        &["config", "check", "--config", drop_in.to_str().unwrap()],
    )
    .ok();
}
