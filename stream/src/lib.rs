//! The streaming server: exec, attach and port-forward over SPDY/3.1 and WebSocket.
//!
//! Knows nothing of containers: a [`Backend`] supplies the other end. The CRI asks for a URL; the client
//! (kubelet, crictl) comes to it with a single-use token.
#![forbid(unsafe_code)]

mod activity;
mod exec;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod inbox;
mod outbox;
mod portforward;
mod pump;
mod request;
mod resize;
mod server;
mod session;
mod spdy;
mod status;
mod tls;
mod token;
mod websocket;

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use server::Server;

/// Where and how the server listens.
#[derive(Debug, Clone)]
pub struct Options {
    /// `127.0.0.1:0` by default.
    pub address: SocketAddr,
    /// Certificate chain and key (PEM files); none: plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// A session without a byte in either direction for this long ends.
    pub idle_timeout: Duration,
    /// From the upgrade to the last of the streams.
    pub creation_timeout: Duration,
    /// How long a URL is good.
    pub token_lifetime: Duration,
    /// Sessions at once.
    pub sessions_max: usize,
}

/// What a URL stands for.
#[derive(Debug, Clone)]
pub enum Session {
    /// Run a command in a container.
    Exec {
        /// Container id.
        container: String,
        /// argv.
        command: Vec<String>,
        /// With a terminal (then no stderr).
        tty: bool,
        /// Client sends stdin.
        stdin: bool,
        /// Client wants stdout.
        stdout: bool,
        /// Client wants stderr.
        stderr: bool,
    },
    /// Join a container's stdio.
    Attach {
        /// Container id.
        container: String,
        /// The container has a terminal.
        tty: bool,
        /// Client sends stdin.
        stdin: bool,
        /// Client wants stdout.
        stdout: bool,
        /// Client wants stderr.
        stderr: bool,
    },
    /// Connect to ports in a pod.
    PortForward {
        /// Sandbox id.
        sandbox: String,
        /// The ports named in the request (WebSocket clients name them in the URL; SPDY in headers).
        ports: Vec<u16>,
    },
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The process end of an exec or attach: pipes or a terminal master, non-blocking.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Written to: the process's stdin. Dropping it is end of file. With a terminal: the master.
    pub stdin: Option<OwnedFd>,
    /// Read from: stdout, or the terminal's master.
    pub stdout: Option<OwnedFd>,
    /// Read from: stderr.
    pub stderr: Option<OwnedFd>,
}

/// How a process ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// With this code (0-255).
    Exited(i32),
    /// It could not be run or watched; the sentence goes to the client.
    Failed(String),
}

/// A running exec or attach.
pub trait Running: Send + 'static {
    /// The process end of the streams. Called once, first.
    fn stdio(&mut self) -> Stdio;
    /// Waits for the end. Called once; may be dropped when the client left: then the backend ends the exec.
    fn wait(&mut self) -> impl Future<Output = Outcome> + Send;
    /// Sets the terminal's size. Callable while `wait` is pending, hence a handle of its own.
    fn resizer(&self) -> Arc<dyn Fn(Size) + Send + Sync>;
}

/// What the server needs from the runtime.
pub trait Backend: Send + Sync + 'static {
    /// What [`Backend::exec`] and [`Backend::attach`] give.
    type Running: Running;
    /// Starts `Session::Exec`.
    fn exec(&self, session: Session) -> impl Future<Output = Result<Self::Running, String>> + Send;
    /// Starts `Session::Attach`.
    fn attach(&self, session: Session) -> impl Future<Output = Result<Self::Running, String>> + Send;
    /// Connects to `port` on the loopback inside the pod's network namespace; a connected TCP socket.
    fn connect(
        &self,
        sandbox: &str,
        port: u16,
    ) -> impl Future<Output = Result<std::net::TcpStream, String>> + Send;
}
