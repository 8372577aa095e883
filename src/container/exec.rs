//! More processes in a container: ExecSync, and what a streaming session runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use criquet_proto::shim::{self, Exit, PLAN_BYTES_MAX, Plan, Process, reply, request};
use criquet_sys::pipe::{self, Pipe};
use criquet_sys::signal::SIGKILL;
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe as async_pipe;

use super::create::{PLAN_NAME, connect};
use super::record::Container;
use crate::fault::{Fault, OrFault, Result};
use crate::id;
use crate::runtime::Runtime;
use crate::supervise::link::{self, CALL_DEADLINE, Link};

/// Of both streams together; the rest is read and dropped (CVE-2022-1708). The CRI says 16 MB, and an answer over
/// 16 MiB in all is refused by a kubelet's gRPC: some bytes are left for what is around the streams.
const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024 - 64;
/// execve of the program: it is read from a disk that may be slow.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// After the end, what its children still write is waited for so long (CVE-2026-53495: without an end).
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// A killed exec is gone within this.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// What ExecSync answers.
#[derive(Debug, Default)]
pub struct Output {
    /// 0 to 255.
    pub code: i32,
    /// With stderr at most [`OUTPUT_BYTES_MAX`].
    pub stdout: Vec<u8>,
    /// With stdout at most [`OUTPUT_BYTES_MAX`].
    pub stderr: Vec<u8>,
}

/// The descriptors of an exec: ours of each stream.
#[derive(Debug, Default)]
pub struct Streams {
    /// We write.
    pub stdin: Option<OwnedFd>,
    /// We read.
    pub stdout: Option<OwnedFd>,
    /// We read.
    pub stderr: Option<OwnedFd>,
    /// Instead of all of them: the master of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// Which streams an exec has; the others are /dev/null.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Terminal instead of pipes.
    pub tty: bool,
    /// Pipe for stdin.
    pub stdin: bool,
    /// Pipe for stdout.
    pub stdout: bool,
    /// Pipe for stderr.
    pub stderr: bool,
}

/// A process that was started in a container. Whoever lets go of it before its end ends it.
#[derive(Debug)]
pub struct Exec {
    link: Arc<Link>,
    ended: AtomicBool,
}

impl Exec {
    /// Waits for its end.
    ///
    /// # Errors
    /// `Unavailable`: the shim is gone.
    pub async fn wait(&self) -> Result<Exit> {
        let exit = self.exit().await;
        self.ended.store(true, Ordering::Release);
        exit
    }

    async fn exit(&self) -> Result<Exit> {
        loop {
            match self.link.receive().await? {
                Some((reply::Kind::Exit(exit), _)) => return Ok(exit),
                // The answer to a signal or a resize.
                Some((reply::Kind::Done(_) | reply::Kind::Failed(_), _)) => {}
                Some((other, _)) => return Err(link::unexpected(&other)),
                None => return Err(Fault::unavailable("the container's shim ended")),
            }
        }
    }

    /// Kills it and its process group.
    pub async fn kill(&self) {
        kill(&self.link).await;
    }

    /// Changes the size of its terminal.
    pub async fn resize(&self, width: u32, height: u32) {
        let resize = request::Kind::Resize(shim::Resize { width, height });
        // It may have ended already.
        tokio::time::timeout(CALL_DEADLINE, self.link.send(resize, &[]))
            .await
            .ok();
    }
}

impl Runtime {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition`: no such container, or it does not run. `DeadlineExceeded`: `timeout`
    /// passed; no process is left. Else what the shim or execve said.
    pub async fn exec_sync(
        &self,
        name: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<Output> {
        let container = self.containers.get(name)?;
        let wanted = Wanted {
            tty: false,
            stdin: false,
            stdout: true,
            stderr: true,
        };
        let (exec, streams) = start(&container, command, wanted).await?;
        let output = run(&exec, streams, timeout).await;
        if output.is_err() {
            exec.kill().await;
            tokio::time::timeout(KILL_DEADLINE, exec.wait()).await.ok();
        }
        output.map_err(|fault| fault.while_doing(format!("exec in container {:?}", id::short(&container.id))))
    }
}

async fn kill(link: &Link) {
    let kill = request::Kind::Signal(shim::Signal {
        signal: SIGKILL,
        all: true,
    });
    // It may have ended already, or its container.
    tokio::time::timeout(CALL_DEADLINE, link.send(kill, &[]))
        .await
        .ok();
}

impl Drop for Exec {
    fn drop(&mut self) {
        let link = Arc::clone(&self.link);
        if !self.ended.load(Ordering::Acquire)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { kill(&link).await });
        }
    }
}

/// Starts a command in a container.
///
/// # Errors
/// As [`Runtime::exec_sync`], but for the timeout.
pub async fn start(
    container: &Arc<Container>,
    command: Vec<String>,
    wanted: Wanted,
) -> Result<(Exec, Streams)> {
    let container = Arc::clone(container);
    // On a task of its own: when the caller goes away meanwhile, the process is still known, and ended.
    tokio::spawn(async move { start_now(&container, command, wanted).await })
        .await
        .or_internal(|| "starting a command".into())?
}

async fn start_now(
    container: &Arc<Container>,
    command: Vec<String>,
    wanted: Wanted,
) -> Result<(Exec, Streams)> {
    container.require_running("exec in")?;
    if command.is_empty() {
        return Err(Fault::invalid("an exec needs a command"));
    }
    let process = process_of(container, command, wanted.tty)?;
    let plan = criquet_sys::memfd::sealed("process", &process.encode_to_vec())
        .or_internal(|| "storing the command".into())?;
    let mut streams = Streams::default();
    let mut theirs = Vec::new();
    if !wanted.tty {
        if wanted.stdin {
            let Pipe { read, write } = pipe::pipe().or_internal(|| "making a pipe".into())?;
            streams.stdin = Some(write);
            theirs.push(read);
        }
        for (want, ours) in [
            (wanted.stdout, &mut streams.stdout),
            (wanted.stderr, &mut streams.stderr),
        ] {
            if want {
                let Pipe { read, write } = pipe::pipe().or_internal(|| "making a pipe".into())?;
                *ours = Some(read);
                theirs.push(write);
            }
        }
        for end in &theirs {
            // So that /dev/stdout can be opened by the user that runs.
            pipe::chown(end, process.uid, process.gid)
                .or_internal(|| "giving a pipe to the container's user".into())?;
        }
    }
    let piped = !wanted.tty;
    let request = request::Kind::Exec(shim::Exec {
        stdin: piped && wanted.stdin,
        stdout: piped && wanted.stdout,
        stderr: piped && wanted.stderr,
    });
    let link = connect(container).await?;
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(plan.as_fd())
        .chain(theirs.iter().map(AsFd::as_fd))
        .collect();
    let (answer, mut masters) = link.call(request, &fds, START_DEADLINE).await?;
    match answer {
        reply::Kind::Started(_) if wanted.tty => streams.terminal = masters.pop(),
        reply::Kind::Started(_) => {}
        other => return Err(link::unexpected(&other)),
    }
    let exec = Exec {
        link: Arc::new(link),
        ended: AtomicBool::new(false),
    };
    Ok((exec, streams))
}

fn process_of(container: &Container, command: Vec<String>, terminal: bool) -> Result<Process> {
    let path = container.dir.join(PLAN_NAME);
    let doing = || format!("reading the plan {path:?}");
    let bytes = std::fs::read(&path).or_internal(doing)?;
    if bytes.len() > PLAN_BYTES_MAX {
        return Err(Fault::internal(format!("{}: too large", doing())));
    }
    let plan = Plan::decode(bytes.as_slice()).or_internal(doing)?;
    let process = plan
        .process
        .ok_or_else(|| Fault::internal(format!("{}: it has no process", doing())))?;
    Ok(crate::plan::exec_process(process, command, terminal))
}

async fn run(exec: &Exec, mut streams: Streams, timeout: Option<Duration>) -> Result<Output> {
    let (mut out, mut err) = (
        Capture::new(streams.stdout.take())?,
        Capture::new(streams.stderr.take())?,
    );
    let finished = async {
        let exit = {
            let wait = exec.wait();
            tokio::pin!(wait);
            let reading = async { tokio::join!(out.read(), err.read()) };
            tokio::pin!(reading);
            tokio::select! {
                exit = &mut wait => exit?,
                // Both streams closed: only the end is left.
                _ = &mut reading => wait.await?,
            }
        };
        // Reading again what is left; at most so long.
        tokio::time::timeout(DRAIN_DEADLINE, async { tokio::join!(out.read(), err.read()) })
            .await
            .ok();
        Ok(exit)
    };
    let exit = match timeout {
        None => finished.await?,
        Some(timeout) => match tokio::time::timeout(timeout, finished).await {
            Ok(exit) => exit?,
            Err(_) => {
                return Err(Fault::deadline_exceeded(format!(
                    "the command did not end within {} s",
                    timeout.as_secs()
                )));
            }
        },
    };
    let (mut stdout, mut stderr) = (out.kept, err.kept);
    fit(&mut stdout, &mut stderr, OUTPUT_BYTES_MAX);
    Ok(Output {
        code: exit.code,
        stdout,
        stderr,
    })
}

/// Cuts two streams to `room` bytes in all: the longer one gives way, and each may keep half.
fn fit(stdout: &mut Vec<u8>, stderr: &mut Vec<u8>, room: usize) {
    let half = room / 2;
    let (out, err) = (stdout.len(), stderr.len());
    stdout.truncate(room - err.min(half));
    stderr.truncate(room - out.min(half));
}

/// One stream of a command, read to its end; kept up to the limit.
struct Capture {
    pipe: Option<async_pipe::Receiver>,
    kept: Vec<u8>,
}

impl Capture {
    fn new(fd: Option<OwnedFd>) -> Result<Self> {
        let pipe = fd
            .map(|fd| {
                pipe::set_nonblocking(&fd).or_internal(|| "preparing a pipe".into())?;
                async_pipe::Receiver::from_owned_fd(fd).or_internal(|| "watching a pipe".into())
            })
            .transpose()?;
        Ok(Self {
            pipe,
            kept: Vec::new(),
        })
    }

    /// To the end of the stream; may be dropped and called again.
    async fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    let room = OUTPUT_BYTES_MAX - self.kept.len();
                    self.kept
                        .extend_from_slice(buffer.get(..length.min(room)).unwrap_or_default());
                }
            }
        }
        self.pipe = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_stream_gives_way() {
        for (out, err, kept) in [
            (0, 0, (0, 0)),
            (10, 0, (10, 0)),
            (11, 0, (10, 0)),
            (0, 99, (0, 10)),
            (99, 2, (8, 2)),
            (3, 99, (3, 7)),
            (99, 99, (5, 5)),
            (5, 5, (5, 5)),
        ] {
            let (mut stdout, mut stderr) = (vec![0; out], vec![0; err]);
            fit(&mut stdout, &mut stderr, 10);
            assert_eq!((stdout.len(), stderr.len()), kept, "{out} and {err}");
        }
    }
}
