//! A host and pods made of fresh network namespaces; nothing of the machine's own is touched.
#![allow(dead_code, unreachable_pub)]

use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use criquet_network::{Builtin, Network, Options, Pod, PortMapping, Protocol};
use criquet_sys::namespace::{self, Kind, Kinds};

/// What must be answered may take so long on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What must not be answered is waited for so long.
const IN_VAIN: Duration = Duration::from_millis(1500);

/// Runs a test on a thread with a network namespace of its own: that is the host.
pub fn on_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        namespace::unshare(&[Kind::Net]).expect("these tests run as root");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let host = Host {
            dir: tempfile::tempdir().unwrap(),
        };
        runtime.block_on(test(host));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the thread's namespace.
pub fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The folders of a host.
#[derive(Debug)]
pub struct Host {
    pub dir: tempfile::TempDir,
}

impl Host {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn options(&self) -> Options {
        Options {
            conf_dir: self.path("net.d"),
            bin_dirs: std::iter::once(self.path("bin"))
                .chain(std::env::split_paths(
                    &std::env::var_os("CNI_PATH").unwrap_or_default(),
                ))
                .chain(["/opt/cni/bin".into(), "/usr/lib/cni".into()])
                .filter(|dir| !dir.as_os_str().is_empty())
                .collect(),
            cache_dir: self.path("cache"),
            lease_dir: self.path("leases"),
            builtin: Some(Builtin {
                bridge: "criquet0".into(),
                subnet: "10.88.0.0/16".parse().unwrap(),
            }),
            native: true,
        }
    }

    pub fn network(&self) -> Network {
        Network::open(self.options()).unwrap()
    }

    /// Without native work: every plugin is a binary.
    pub fn binaries(&self) -> Network {
        Network::open(Options {
            native: false,
            builtin: None,
            ..self.options()
        })
        .unwrap()
    }

    pub fn configure(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path("net.d")).unwrap();
        std::fs::write(self.path("net.d").join(name), text).unwrap();
    }

    pub fn plugin(&self, name: &str, script: &str) {
        std::fs::create_dir_all(self.path("bin")).unwrap();
        let (text, path) = (self.path("script"), self.path("bin").join(name));
        std::fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // By another process: what this one had open for writing, a child of another test may still have, and then
        // it cannot be executed.
        run(
            "install",
            &format!("-m 755 {} {}", text.display(), path.display()),
        );
    }

    /// The leased addresses of a network.
    pub fn leases(&self, network: &str) -> Vec<String> {
        names(&self.path("leases").join(network))
            .into_iter()
            .filter(|name| name.parse::<IpAddr>().is_ok())
            .collect()
    }

    pub fn records(&self) -> Vec<String> {
        names(&self.path("cache"))
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).map(|entries| {
        entries
            .map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>()
    });
    let mut names: Vec<String> = entries
        .unwrap_or_default()
        .into_iter()
        .map(|name| name.into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A pod's network namespace and its request.
#[derive(Debug)]
pub struct Place {
    pub netns: OwnedFd,
    pub pod: Pod,
}

impl Place {
    pub fn new(id: &str) -> Self {
        let netns = namespace::create(
            Kinds {
                net: true,
                ..Kinds::default()
            },
            None,
        )
        .unwrap()
        .net
        .unwrap();
        // Never closed: another test's namespace must not come to have the same name.
        let named = netns.try_clone().unwrap().into_raw_fd();
        let path = format!("/proc/{}/fd/{named}", std::process::id());
        let pod = Pod {
            id: id.into(),
            netns: path.into(),
            name: format!("name-{id}"),
            namespace: "default".into(),
            uid: format!("uid-{id}"),
            ..Pod::default()
        };
        Self { netns, pod }
    }

    pub fn port(mut self, host_port: u16, container_port: u16, host_ip: Option<&str>) -> Self {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        self.pod.ports.push(PortMapping {
            host_port,
            container_port,
            protocol: Protocol::Tcp,
            host_ip,
        });
        self
    }

    pub fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        namespace::in_netns(self.netns.as_fd(), work).unwrap()
    }

    /// Says the peer's address to everybody who connects.
    pub fn serve(&self, port: u16) {
        let listener = self
            .inside(|| TcpListener::bind(SocketAddr::from(([0u16; 8], port))))
            .unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                stream
                    .write_all(peer.ip().to_canonical().to_string().as_bytes())
                    .unwrap();
            }
        });
    }

    /// Connects from within the pod.
    pub fn ask(&self, ip: IpAddr, port: u16) -> Option<IpAddr> {
        self.inside(|| ask(ip, port))
    }

    /// Connects from within the pod, to nobody.
    pub fn ask_in_vain(&self, ip: IpAddr, port: u16) -> bool {
        self.inside(|| ask_in_vain(ip, port))
    }
}

/// The address as which the server sees us, if it can be reached.
pub fn ask(ip: IpAddr, port: u16) -> Option<IpAddr> {
    ask_within(ip, port, PATIENCE)
}

/// Whether nobody is reached there.
pub fn ask_in_vain(ip: IpAddr, port: u16) -> bool {
    ask_within(ip, port, IN_VAIN).is_none()
}

fn ask_within(ip: IpAddr, port: u16, connect: Duration) -> Option<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), connect).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
