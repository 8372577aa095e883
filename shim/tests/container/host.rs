//! What a test's container lives on: a root of busybox, folders and cgroups of its own.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use criquet_proto::shim::{
    Cgroup, Exit, Log, Mount, Namespace, Namespaces, Plan, Process, Rootfs, VERSION, cgroup, mount,
    namespace, reply,
};
use criquet_sys::capability;
use prost::Message;

use crate::client::{Client, PATIENCE, Shim};

/// A container's folders on the host, and its plan. All is taken away at the end.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) plan: Plan,
    cgroups: Vec<PathBuf>,
}

/// A container with its shim, and the first connection to it.
pub(crate) struct Running {
    // In the order in which they end: the container must be gone before its folders are.
    pub(crate) client: Client,
    pub(crate) shim: Shim,
    pub(crate) host: Host,
}

impl Host {
    pub(crate) fn new(args: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "criquet-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = tempfile::tempdir().unwrap();
        for folder in ["state", "log", "upper", "work"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        root(&dir.path().join("root"));
        let path = |name: &str| dir.path().join(name).display().to_string();
        let cgroup = cgroups(&name);
        let cgroups = cgroup
            .dirs
            .iter()
            .map(|dir| Path::new(&dir.path).parent().unwrap().to_owned())
            .collect();
        let space = |kind: namespace::Kind| {
            Some(Namespace {
                kind: kind.into(),
                fd: 0,
            })
        };
        let plan = Plan {
            version: VERSION,
            container_id: name,
            state_dir: path("state"),
            namespaces: Some(Namespaces {
                network: space(namespace::Kind::New),
                ipc: space(namespace::Kind::New),
                uts: space(namespace::Kind::New),
                pid: space(namespace::Kind::New),
                user: space(namespace::Kind::Host),
                cgroup: space(namespace::Kind::New),
                ..Default::default()
            }),
            rootfs: Some(Rootfs {
                lower: vec![path("root")],
                upper: path("upper"),
                work: path("work"),
                propagation: mount::Propagation::Slave.into(),
                ..Default::default()
            }),
            mounts: vec![Mount {
                kind: mount::Kind::Proc.into(),
                target: "/proc".into(),
                ..Default::default()
            }],
            process: Some(process(args)),
            cgroup: Some(cgroup),
            log: Some(Log {
                dir: path("log"),
                path: "c/0.log".into(),
            }),
            ..Default::default()
        };
        Self { dir, plan, cgroups }
    }

    /// A shell in the container.
    pub(crate) fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The log's lines as (stream, tag, text). Parts are put together: where a program writes in blocks, a line is cut
    /// wherever the machine had no time for the program.
    pub(crate) fn log(&self) -> Vec<(String, String, String)> {
        let text = fs::read_to_string(self.dir.path().join("log/c/0.log")).unwrap();
        let mut lines: Vec<(String, String, String)> = Vec::new();
        for line in text.lines() {
            let mut words = line.splitn(4, ' ').skip(1);
            let (stream, tag, text) = (
                words.next().unwrap(),
                words.next().unwrap(),
                words.next().unwrap(),
            );
            let last = lines.iter_mut().rev().find(|(of, _, _)| of == stream);
            match last.filter(|(_, tag, _)| tag == "P") {
                Some(part) => {
                    part.1 = tag.into();
                    part.2.push_str(text);
                }
                None => lines.push((stream.into(), tag.into(), text.into())),
            }
        }
        lines
    }

    pub(crate) fn exit_record(&self) -> Option<Exit> {
        let bytes = fs::read(self.state_dir().join("exit")).ok()?;
        Some(Exit::decode(&*bytes).unwrap())
    }

    /// Whether one of the container's cgroups is still there.
    pub(crate) fn has_cgroup(&self) -> bool {
        self.plan
            .cgroup
            .as_ref()
            .unwrap()
            .dirs
            .iter()
            .any(|dir| Path::new(&dir.path).exists())
    }

    pub(crate) fn create(self) -> Running {
        let (shim, socket) = Shim::spawn(&self.plan.container_id);
        let client = Client::new(socket);
        let created = client.create(&self.plan);
        assert!(
            matches!(created, reply::Kind::Created(c) if c.pid > 0),
            "{created:?}"
        );
        Running {
            host: self,
            shim,
            client,
        }
    }

    pub(crate) fn start(self) -> Running {
        let running = self.create();
        let started = running.client.start();
        assert!(
            matches!(started, reply::Kind::Started(s) if s.pid > 0 && s.started_at_ns > 0),
            "{started:?}"
        );
        running
    }
}

impl Running {
    /// One more connection.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.host.state_dir())
    }

    /// The container's exit.
    pub(crate) fn wait(&self) -> Exit {
        self.client
            .wait()
            .unwrap_or_else(|| self.host.exit_record().unwrap())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for path in &self.cgroups {
            let until = Instant::now() + Duration::from_secs(20);
            let inner = path.join("c");
            while inner.exists() && fs::remove_dir(&inner).is_err() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            fs::remove_dir(path).ok();
        }
    }
}

/// A process with all rights that the host gives.
pub(crate) fn process(args: &[&str]) -> Process {
    let all = capability::permitted().unwrap() & capability::bounding();
    Process {
        args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/bin".to_vec()],
        cwd: "/".into(),
        bounding: all,
        effective: all,
        permitted: all,
        umask: 0o022,
        ..Default::default()
    }
}

fn root(root: &Path) {
    fs::create_dir_all(root.join("bin")).unwrap();
    for folder in ["proc", "sys", "dev", "tmp"] {
        fs::create_dir(root.join(folder)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let busybox = busybox.expect("busybox on this host");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "sleep", "true", "kill", "seq", "dd", "head", "tty", "stty", "ls", "yes",
        "setsid",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    let libraries = Command::new("ldd").arg(busybox).output().unwrap().stdout;
    for library in String::from_utf8(libraries)
        .unwrap()
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let place = root.join(&library[1..]);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(library, place).unwrap();
    }
}

/// One folder on a v2 host; on others, one in each of a few hierarchies.
fn cgroups(name: &str) -> Cgroup {
    let top = Path::new("/sys/fs/cgroup");
    let dir = |hierarchy: &Path, controllers: &str| cgroup::Dir {
        path: hierarchy.join(name).join("c").display().to_string(),
        files: vec![cgroup::File {
            name: "criquet.none".into(),
            value: "1".into(),
            optional: true,
        }],
        controllers: controllers.into(),
    };
    if top.join("cgroup.controllers").exists() {
        return Cgroup {
            v2: true,
            dirs: vec![dir(top, "")],
            device_program: Vec::new(),
        };
    }
    let dirs = ["memory", "pids", "cpuset", "unified"]
        .iter()
        .filter(|name| top.join(name).exists())
        .map(|name| dir(&top.join(name), name))
        .collect();
    Cgroup {
        v2: false,
        dirs,
        device_program: Vec::new(),
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "it does not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads until a stream has given `text`; gives all that came up to it.
#[track_caller]
pub(crate) fn read_until(fd: &OwnedFd, text: &str) -> String {
    let mut file = fs::File::from(fd.try_clone().unwrap());
    let (mut read, mut byte) = (Vec::new(), [0]);
    while !read.ends_with(text.as_bytes()) {
        std::io::Read::read_exact(&mut file, &mut byte).unwrap();
        read.push(byte[0]);
    }
    String::from_utf8(read).unwrap()
}

/// All that a stream still gives.
pub(crate) fn read_to_end(fd: OwnedFd) -> String {
    let mut text = String::new();
    match std::io::Read::read_to_string(&mut fs::File::from(fd), &mut text) {
        Ok(_) => text,
        // A terminal whose other side is closed.
        Err(error) if error.raw_os_error() == Some(5) => text,
        Err(error) => panic!("{error}"),
    }
}
