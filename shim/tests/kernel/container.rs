//! A small container to test with: busybox on one layer.

use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use criquet_proto::shim::{
    Cgroup, IdMap, Mount, Namespace, Namespaces, Plan, Process, Rootfs, cgroup::Dir, mount, namespace,
};
use criquet_shim::child::{self, Child, Failure, Stdio};
use criquet_sys::{host, pidfd, pipe, process};

/// Where the container's ids begin with a user namespace.
pub(crate) const HOST_ID: u32 = 200_000;
const ALL: u64 = (1 << 41) - 1;

pub(crate) struct Container {
    folder: tempfile::TempDir,
    pub(crate) plan: Plan,
    fds: Vec<OwnedFd>,
    cgroups: Vec<PathBuf>,
}

/// A process that waits, and what it will write.
pub(crate) struct Made {
    pub(crate) child: Child,
    /// Else it would be killed by SIGPIPE.
    _output: OwnedFd,
}

pub(crate) fn maps(host_id: u32) -> Vec<IdMap> {
    vec![IdMap {
        container_id: 0,
        host_id,
        length: 65_536,
    }]
}

pub(crate) fn nowhere() -> Stdio {
    Stdio {
        stdin: pipe::null().unwrap(),
        stdout: pipe::null().unwrap(),
        stderr: pipe::null().unwrap(),
    }
}

/// mkdir(2) gives EPERM.
pub(crate) fn deny_mkdir() -> Vec<u8> {
    let mkdir: u32 = if cfg!(target_arch = "x86_64") { 83 } else { 34 };
    let instruction =
        |code: u16, jt, jf, k: u32| [code.to_ne_bytes().as_slice(), &[jt, jf], &k.to_ne_bytes()].concat();
    [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, mkdir),
        instruction(0x06, 0, 0, 0x0005_0001),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ]
    .concat()
}

fn libraries() -> Vec<PathBuf> {
    let out = std::process::Command::new("ldd")
        .arg("/bin/busybox")
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// Busybox with its libraries, and the folders that a container needs.
fn fill(base: &Path) {
    for name in [
        "lower/bin",
        "lower/etc",
        "lower/proc",
        "lower/sys",
        "lower/dev",
        "lower/tmp",
        "upper",
        "work",
        "state",
    ] {
        std::fs::create_dir_all(base.join(name)).unwrap();
    }
    std::fs::set_permissions(base.join("state"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::copy("/bin/busybox", base.join("lower/bin/busybox")).unwrap();
    for library in libraries() {
        let target = base.join("lower").join(library.strip_prefix("/").unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&library, target).unwrap();
    }
    for applet in [
        "sh", "cat", "echo", "ls", "id", "ps", "sleep", "tty", "stty", "mkdir", "mount", "hostname", "grep",
        "true", "touch", "head", "od", "test", "pwd",
    ] {
        std::os::unix::fs::symlink("busybox", base.join("lower/bin").join(applet)).unwrap();
    }
}

/// Sleeps as root in namespaces of its own.
fn plan(base: &Path) -> Plan {
    let path = |name: &str| base.join(name).display().to_string();
    let kind = |kind: namespace::Kind| {
        Some(Namespace {
            kind: kind.into(),
            fd: 0,
        })
    };
    let system = |kind: mount::Kind, target: &str| Mount {
        kind: kind.into(),
        target: target.into(),
        ..Default::default()
    };
    Plan {
        container_id: "test".into(),
        state_dir: path("state"),
        namespaces: Some(Namespaces {
            network: kind(namespace::Kind::New),
            ipc: kind(namespace::Kind::New),
            uts: kind(namespace::Kind::New),
            pid: kind(namespace::Kind::New),
            user: kind(namespace::Kind::Host),
            cgroup: kind(namespace::Kind::New),
            ..Default::default()
        }),
        rootfs: Some(Rootfs {
            lower: vec![path("lower")],
            upper: path("upper"),
            work: path("work"),
            ..Default::default()
        }),
        mounts: vec![
            system(mount::Kind::Proc, "/proc"),
            system(mount::Kind::Sysfs, "/sys"),
        ],
        process: Some(Process {
            args: vec!["sleep".into(), "100".into()],
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            bounding: ALL,
            permitted: ALL,
            effective: ALL,
            ..Default::default()
        }),
        ..Default::default()
    }
}

impl Container {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        Self {
            plan: plan(folder.path()),
            folder,
            fds: Vec::new(),
            cgroups: Vec::new(),
        }
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.folder.path().join("upper")
    }

    pub(crate) fn lower(&self) -> PathBuf {
        self.folder.path().join("lower")
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn file(&mut self, name: &str, content: &str, mode: u32) {
        let path = self.lower().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.plan.process.as_mut().unwrap()
    }

    pub(crate) fn mount(&mut self, mount: Mount) {
        self.plan.mounts.push(mount);
    }

    pub(crate) fn join(
        &mut self,
        which: impl FnOnce(&mut Namespaces) -> &mut Option<Namespace>,
        fd: OwnedFd,
    ) {
        let index = u32::try_from(self.fds.len()).unwrap();
        *which(self.plan.namespaces.as_mut().unwrap()) = Some(Namespace {
            kind: namespace::Kind::Join.into(),
            fd: index,
        });
        self.fds.push(fd);
    }

    /// As the daemon makes it for a pod.
    pub(crate) fn user_namespace(&mut self) {
        use criquet_sys::namespace::{IdMap, Kinds, Maps, create};
        let map = vec![IdMap {
            container: 0,
            host: HOST_ID,
            length: 65_536,
        }];
        let made = create(
            Kinds {
                net: true,
                ipc: true,
                uts: true,
            },
            Some(&Maps {
                uids: map.clone(),
                gids: map,
            }),
        )
        .unwrap();
        self.join(|n| &mut n.network, made.net.unwrap());
        self.join(|n| &mut n.ipc, made.ipc.unwrap());
        self.join(|n| &mut n.uts, made.uts.unwrap());
        self.join(|n| &mut n.user, made.user.unwrap());
        self.map();
    }

    fn map(&mut self) {
        // The temporary folder is root's alone; overlayfs asks with the mounter's rights, the container never.
        let namespaces = self.plan.namespaces.as_mut().unwrap();
        (namespaces.uid_maps, namespaces.gid_maps) = (maps(HOST_ID), maps(HOST_ID));
    }

    pub(crate) fn share_user_namespace(&mut self, other: &Self) {
        let source = other.plan.namespaces.as_ref().unwrap();
        let fd = |n: &Option<Namespace>| other.fds[n.as_ref().unwrap().fd as usize].try_clone().unwrap();
        self.join(|n| &mut n.network, fd(&source.network));
        self.join(|n| &mut n.ipc, fd(&source.ipc));
        self.join(|n| &mut n.uts, fd(&source.uts));
        self.join(|n| &mut n.user, fd(&source.user));
        self.map();
    }

    /// Folders of its own in every hierarchy, and a mount that shows them.
    pub(crate) fn cgroups(&mut self) -> Vec<PathBuf> {
        let found = host::cgroups().unwrap();
        let name = format!(
            "criquet-test-{}-{}",
            std::process::id(),
            self.folder.path().file_name().unwrap().to_string_lossy()
        );
        let v2 = found.mode == host::CgroupMode::V2;
        let mut hierarchies = found.v1;
        hierarchies.extend(found.v2.map(|h| host::Hierarchy {
            controllers: if v2 { String::new() } else { "unified".into() },
            ..h
        }));
        let mut dirs = Vec::new();
        for hierarchy in hierarchies
            .iter()
            .filter(|h| h.controllers != "cpuset" && !h.controllers.contains("memory"))
        {
            let path = hierarchy.mount.join(&name);
            std::fs::create_dir(&path).unwrap();
            self.cgroups.push(path.clone());
            dirs.push(Dir {
                path: path.display().to_string(),
                files: Vec::new(),
                controllers: hierarchy.controllers.clone(),
            });
        }
        self.plan.cgroup = Some(Cgroup {
            v2,
            dirs,
            device_program: Vec::new(),
        });
        self.mount(Mount {
            kind: mount::Kind::Cgroup.into(),
            target: "/sys/fs/cgroup".into(),
            ..Default::default()
        });
        self.cgroups.clone()
    }

    /// As on a v2 host: the machine's cgroup2 mount, which hybrid hosts have too.
    pub(crate) fn unified_cgroup(&mut self) {
        self.cgroups();
        let cgroup = self.plan.cgroup.as_mut().unwrap();
        cgroup
            .dirs
            .retain(|dir| cgroup.v2 || dir.controllers == "unified");
        cgroup.v2 = true;
    }

    pub(crate) fn create(&self) -> Result<Made, Failure> {
        let pipe = pipe::pipe().unwrap();
        let stdio = Stdio {
            stdin: pipe::null().unwrap(),
            stdout: pipe.write.try_clone().unwrap(),
            stderr: pipe.write,
        };
        let mut child = child::create(&self.plan, &self.fds, stdio)?;
        let output = child.terminal.take().unwrap_or(pipe.read);
        Ok(Made {
            child,
            _output: output,
        })
    }

    pub(crate) fn fails(&self) -> Failure {
        match self.create() {
            Err(failure) => failure,
            Ok(_) => panic!("was created"),
        }
    }

    /// Runs a script to its end; its output, both streams.
    pub(crate) fn shell(&self, script: &str) -> String {
        self.start(script).finish()
    }

    pub(crate) fn start(&self, script: &str) -> Running<'_> {
        let mut plan = self.plan.clone();
        plan.process.as_mut().unwrap().args = ["sh", "-c", script].map(Vec::from).into();
        let changed = Self {
            folder: tempfile::tempdir().unwrap(),
            plan,
            fds: Vec::new(),
            cgroups: Vec::new(),
        };
        let pipe = pipe::pipe().unwrap();
        let stdio = Stdio {
            stdin: pipe::null().unwrap(),
            stdout: pipe.write.try_clone().unwrap(),
            stderr: pipe.write,
        };
        let mut child = child::create(&changed.plan, &self.fds, stdio).unwrap_or_else(|f| panic!("{f:?}"));
        let output = child.terminal.take().unwrap_or(pipe.read);
        child.release().unwrap_or_else(|f| panic!("{f:?}"));
        Running {
            container: self,
            child,
            output: output.into(),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        for path in &self.cgroups {
            // The last process may be on its way out.
            for _ in 0..2000 {
                if std::fs::remove_dir(path).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

pub(crate) struct Running<'a> {
    container: &'a Container,
    child: Child,
    output: std::fs::File,
}

impl Running<'_> {
    fn finish(mut self) -> String {
        let mut text = Vec::new();
        // A terminal ends with EIO.
        drop(self.output.read_to_end(&mut text));
        process::reap(&self.child.pidfd).unwrap();
        String::from_utf8(text).unwrap()
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let mut byte = [0];
        while self.output.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0].into());
        }
        line
    }

    pub(crate) fn until(&mut self, end: &str) -> String {
        let mut text = String::new();
        loop {
            let line = self.line();
            if line == end {
                return text;
            }
            text.push_str(&line);
            text.push('\n');
        }
    }

    pub(crate) fn namespace(&self, name: &str) -> OwnedFd {
        criquet_sys::namespace::open(Path::new(&format!("/proc/{}/ns/{name}", self.child.pid))).unwrap()
    }

    pub(crate) fn exec(&mut self, args: &[&str]) -> String {
        let mut process = self.container.plan.process.clone().unwrap();
        process.args = args.iter().map(|a| a.as_bytes().to_vec()).collect();
        process.terminal = false;
        self.exec_process(&process)
    }

    pub(crate) fn exec_terminal(&mut self, args: &[&str]) -> String {
        let mut process = self.container.plan.process.clone().unwrap();
        process.args = args.iter().map(|a| a.as_bytes().to_vec()).collect();
        (process.terminal, process.width, process.height) = (true, 90, 30);
        self.exec_process(&process)
    }

    fn exec_process(&mut self, process: &Process) -> String {
        let pipe = pipe::pipe().unwrap();
        let stdio = Stdio {
            stdin: pipe::null().unwrap(),
            stdout: pipe.write.try_clone().unwrap(),
            stderr: pipe.write,
        };
        let made = child::exec(
            process,
            self.child.pidfd.as_fd(),
            self.child.pid,
            &self.container.plan,
            stdio,
        );
        let mut child = made.unwrap_or_else(|f| panic!("{f:?}"));
        child.release().unwrap_or_else(|f| panic!("{f:?}"));
        let output = child.terminal.take().unwrap_or(pipe.read);
        let mut text = Vec::new();
        drop(std::fs::File::from(output).read_to_end(&mut text));
        let ended = process::reap(&child.pidfd).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(ended, pidfd::Ended::Exited(0), "{text}");
        text
    }

    pub(crate) fn kill(&mut self) {
        pidfd::signal(&self.child.pidfd, 9).unwrap();
        process::reap(&self.child.pidfd).unwrap();
    }
}
