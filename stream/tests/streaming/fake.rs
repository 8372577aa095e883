//! A backend without containers: commands run here, ports are this machine's.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio as Redirect;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criquet_stream::{Backend, Options, Outcome, Running, Session, Size, Stdio};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use tokio::process::{Child, Command};

/// Counts what runs, so that a test sees what was left behind.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) running: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdio: Stdio,
    master: Option<Arc<OwnedFd>>,
    running: Arc<AtomicUsize>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Running for Process {
    fn stdio(&mut self) -> Stdio {
        std::mem::take(&mut self.stdio)
    }

    async fn wait(&mut self) -> Outcome {
        match self.child.wait().await {
            Ok(status) => Outcome::Exited(status.code().unwrap_or(137)),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    fn resizer(&self) -> Arc<dyn Fn(Size) + Send + Sync> {
        let master = self.master.clone();
        Arc::new(move |size| {
            if let Some(master) = &master {
                let size = rustix::termios::Winsize {
                    ws_col: size.width,
                    ws_row: size.height,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                rustix::termios::tcsetwinsize(master.as_fd(), size).unwrap();
            }
        })
    }
}

fn set_nonblocking(fd: &OwnedFd) {
    rustix::io::ioctl_fionbio(fd, true).unwrap();
}

/// Our end and the process's.
fn pipe(ours_reads: bool) -> (OwnedFd, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (ours, theirs) = if ours_reads { (read, write) } else { (write, read) };
    set_nonblocking(&ours);
    (ours, theirs)
}

impl Fake {
    fn spawn(&self, command: &[String], tty: bool, stdin: bool) -> Result<Process, String> {
        let mut stdio = Stdio::default();
        let mut master = None;
        let mut process;
        if tty {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let pty = rustix::pty::openpt(flags).unwrap();
            rustix::pty::grantpt(&pty).unwrap();
            rustix::pty::unlockpt(&pty).unwrap();
            let name = rustix::pty::ptsname(&pty, Vec::new()).unwrap();
            let open = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let slave = rustix::fs::open(&name, open, Mode::empty()).unwrap();
            set_nonblocking(&pty);
            process = Command::new("setsid");
            process.args(["-c", "-w"]).args(command);
            process
                .stdin(slave.try_clone().unwrap())
                .stdout(slave.try_clone().unwrap())
                .stderr(slave);
            stdio.stdin = stdin.then(|| pty.try_clone().unwrap());
            stdio.stdout = Some(pty.try_clone().unwrap());
            master = Some(Arc::new(pty));
        } else {
            process = Command::new(&command[0]);
            process.args(&command[1..]).stdin(Redirect::null());
            if stdin {
                let (ours, theirs) = pipe(false);
                stdio.stdin = Some(ours);
                process.stdin(theirs);
            }
            let (ours, theirs) = pipe(true);
            stdio.stdout = Some(ours);
            process.stdout(theirs);
            let (ours, theirs) = pipe(true);
            stdio.stderr = Some(ours);
            process.stderr(theirs);
        }
        let child = process
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("run {}: {error}", command[0]))?;
        self.running.fetch_add(1, Ordering::SeqCst);
        Ok(Process {
            child,
            stdio,
            master,
            running: Arc::clone(&self.running),
        })
    }
}

impl Backend for Fake {
    type Running = Process;

    async fn exec(&self, session: Session) -> Result<Process, String> {
        let Session::Exec {
            command, tty, stdin, ..
        } = session
        else {
            return Err("not an exec".into());
        };
        self.spawn(&command, tty, stdin)
    }

    /// The container's name is what its shell runs.
    async fn attach(&self, session: Session) -> Result<Process, String> {
        let Session::Attach {
            container,
            tty,
            stdin,
            ..
        } = session
        else {
            return Err("not an attach".into());
        };
        self.spawn(&["sh".into(), "-c".into(), container], tty, stdin)
    }

    async fn connect(&self, _sandbox: &str, port: u16) -> Result<std::net::TcpStream, String> {
        let socket = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        socket
            .and_then(tokio::net::TcpStream::into_std)
            .map_err(|error| error.to_string())
    }
}

/// What must become so may take so long on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any test waits: what ends earlier was ended.
pub(crate) const FOREVER: &str = "3600";

/// Waits until `done`.
pub(crate) async fn wait_for(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Times that no test reaches; those about one of them set it.
pub(crate) fn options() -> Options {
    Options {
        address: (Ipv4Addr::LOCALHOST, 0).into(),
        tls: None,
        idle_timeout: PATIENCE * 10,
        creation_timeout: PATIENCE,
        token_lifetime: PATIENCE * 10,
        sessions_max: 64,
    }
}

pub(crate) fn exec(command: &[&str], tty: bool, stdin: bool) -> Session {
    Session::Exec {
        container: "c".into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        tty,
        stdin,
        stdout: true,
        stderr: !tty,
    }
}
