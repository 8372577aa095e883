//! The Debian package, installed into an overlay of this host's root: what is left of it, the upper layer tells.

use std::fs;
use std::path::{Path, PathBuf};

use criquet_tests::{Output, run, workspace};
use tempfile::TempDir;

use crate::programs;

struct Package {
    folder: TempDir,
    file: PathBuf,
}

impl Package {
    fn build() -> Package {
        // The upper layer of an overlay lies on no overlay.
        let folder = crate::folder("/var/tmp");
        for part in ["upper", "work", "root"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        let file = build(folder.path());
        Package { folder, file }
    }

    fn part(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a script in the overlay, with processes of its own.
    fn inside(&self, script: &str) -> Output {
        let (upper, work, root) = (self.part("upper"), self.part("work"), self.part("root"));
        let enter = format!(
            "set -e; export LC_ALL=C DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
            mount -t overlay -o 'lowerdir=/,upperdir={},workdir={}' overlay '{root}'
            mount --bind /dev '{root}/dev'; mount -t tmpfs tmpfs '{root}/run'; mount -t tmpfs tmpfs '{root}/tmp'; mount -t proc proc '{root}/proc'
            cp '{}' '{root}/tmp/criquet.deb'
            # Debian's switch: an index of all pages takes half a minute.
            rm -f '{root}/var/lib/man-db/auto-update'
            exec chroot '{root}' bash -c \"$1\"",
            upper.display(),
            work.display(),
            self.file.display(),
            root = root.display(),
        );
        run(
            "unshare",
            &[
                "--mount", "--pid", "--fork", "bash", "-c", &enter, "enter", script,
            ],
        )
    }

    /// What of criquet is in the upper layer, without what says that it is gone.
    fn left(&self) -> Vec<String> {
        let upper = self.part("upper");
        let start = upper.display().to_string();
        let there = |path: &Path| {
            let kind = fs::symlink_metadata(path).map(|metadata| metadata.file_type());
            // A character device is a whiteout.
            kind.is_ok_and(|kind| kind.is_file() || kind.is_dir() || kind.is_symlink())
        };
        files_below(&upper)
            .into_iter()
            .filter(|path| there(path))
            .map(|path| path.display().to_string().replacen(&start, "", 1))
            .filter(|path| path.contains("criquet"))
            .collect()
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path()));
        }
    }
    found
}

fn build(folder: &Path) -> PathBuf {
    let (programs, folder) = (programs().display().to_string(), folder.display().to_string());
    let script = workspace().join("hack/package");
    let said = run(script, &["--dev", "--from", &programs, "--output", &folder]).ok();
    PathBuf::from(said.lines().last().unwrap())
}

#[test]
fn it_installs_upgrades_and_goes_without_a_trace() {
    let package = Package::build();
    let said = package.inside(
        "dpkg -i /tmp/criquet.deb && criquet --version && criquet config check && dpkg --verify criquet
        test -x /usr/bin/criquet-shim && test -L /etc/systemd/system/multi-user.target.wants/criquet.service
        for page in criquet criquet-serve criquet-shim criquet.toml; do man --where $page; done
        MANPAGER=cat MANWIDTH=100 man criquet.toml | grep -q hosts_dir
        bash -c '. /usr/share/bash-completion/completions/criquet; complete -p criquet'",
    );
    let said = said.ok();
    for part in [
        "criquet 0.1.0",
        "the configuration is valid",
        "-F _criquet",
        "man5/criquet.toml.5.gz",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(
        package.left().len() > 40,
        "what is left is looked for in the right place"
    );
    // An administrator's changes live through an upgrade and a removal.
    let said = package.inside(
        "set -e; sed -i 's/^enabled = false/enabled = true/' /etc/criquet/config.toml
        systemctl disable criquet.service; mkdir -p /var/lib/criquet
        dpkg -i /tmp/criquet.deb; grep '^enabled = true' /etc/criquet/config.toml
        test ! -e /etc/systemd/system/multi-user.target.wants/criquet.service
        dpkg -r criquet; test ! -e /usr/bin/criquet; test ! -e /lib/systemd/system/criquet.service
        grep '^enabled = true' /etc/criquet/config.toml; test -d /var/lib/criquet
        dpkg -i /tmp/criquet.deb; grep '^enabled = true' /etc/criquet/config.toml",
    );
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("stay in /var/lib/criquet"), "{said:?}");
    let said = package.inside(
        "set -e; mkdir -p /run/criquet/sandboxes/a && mount -t tmpfs tmpfs /run/criquet/sandboxes/a
        dpkg -P criquet; test ! -e /run/criquet",
    );
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(package.left(), Vec::<String>::new());
}

#[test]
fn containers_that_run_keep_their_state() {
    let package = Package::build();
    let said = package.inside(
        "set -e; dpkg -i /tmp/criquet.deb; mkdir -p /var/lib/criquet/containers
        (exec -a criquet-shim sleep 1000) & until grep -qa ^criquet-shim /proc/$!/cmdline; do sleep 0.05; done
        dpkg -P criquet; kill $!; test -d /var/lib/criquet/containers; test ! -e /etc/criquet",
    );
    assert_eq!(said.code, 0, "{said:?}");
    for part in ["1 containers go on without the daemon", "containers still run"] {
        assert!(said.stderr.contains(part), "{part}: {said:?}");
    }
    let said =
        package.inside("set -e; dpkg -i /tmp/criquet.deb; dpkg -P criquet; test ! -e /var/lib/criquet");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(package.left(), Vec::<String>::new());
}

#[test]
fn it_is_the_same_each_time_and_debians_checker_finds_no_error() {
    let package = Package::build();
    let again = package.part("work");
    let again = build(&again);
    assert_eq!(
        fs::read(&package.file).unwrap(),
        fs::read(again).unwrap(),
        "two builds differ"
    );
    let file = package.file.display().to_string();
    let checked = run(
        "lintian",
        &["--allow-root", "--fail-on", "error", "--no-cfg", &file],
    );
    assert_eq!(checked.code, 0, "{checked:?}");
}
