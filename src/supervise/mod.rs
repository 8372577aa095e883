//! Shims: started here, found again here after a restart, and talked to only with deadlines.

pub mod link;
pub mod process;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use criquet_proto::shim::{self, Exit, Plan, PodInit, reply, request};
use prost::Message;

use crate::fault::{Fault, Kind, OrFault, Result};
use crate::fault_point::{Point, reach};
use link::Link;

/// Setting up a container: mounts and writes that can wait for a slow disk, but not for ever.
const CREATE_DEADLINE: Duration = Duration::from_secs(60);
/// An exit record is a few dozen bytes; what is larger is none.
const EXIT_BYTES_MAX: u64 = 64 * 1024;

/// The shim's program, copied once into a sealed memfd: a container can never reach a file of the host
/// through its shim's executable (CVE-2019-5736), and a package upgrade does not disturb a running daemon.
#[derive(Debug)]
pub struct Launcher {
    program: OwnedFd,
}

impl Launcher {
    /// Reads the program at `path`.
    ///
    /// # Errors
    /// The file is not there or no memory is left.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).or_internal(|| format!("reading the shim {path:?} (set runtime.shim)"))?;
        let program = criquet_sys::memfd::sealed_executable("criquet-shim", &bytes)
            .or_internal(|| "sealing the shim".into())?;
        Ok(Self { program })
    }

    /// Starts a shim and has it make the container of `plan` up to execve.
    ///
    /// # Errors
    /// What the shim could not do. One that was stuck over it is still there.
    pub async fn create(&self, plan: &Plan, namespaces: Vec<OwnedFd>) -> Result<(Link, i32)> {
        let link = self.start(&["criquet-shim", &plan.container_id])?;
        link.greet().await?;
        reach(Point::CreateShim).await?;
        let plan = criquet_sys::memfd::sealed("plan", &plan.encode_to_vec())
            .or_internal(|| "storing the plan".into())?;
        let mut fds = vec![plan.as_fd()];
        fds.extend(namespaces.iter().map(AsFd::as_fd));
        match link
            .call(request::Kind::Create(shim::Create {}), &fds, CREATE_DEADLINE)
            .await?
        {
            (reply::Kind::Created(created), _) => Ok((link, created.pid)),
            (other, _) => Err(link::unexpected(&other)),
        }
    }

    /// Starts a shim that does nothing but be there, and its pid: it ends when the link is dropped.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn hold_place(&self, id: &str) -> Result<(Link, u32)> {
        let link = self.start(&["criquet-shim", id])?;
        let hello = request::Kind::Hello(shim::Hello {
            version: shim::VERSION,
        });
        match link.call(hello, &[], link::CALL_DEADLINE).await? {
            (reply::Kind::Welcome(welcome), _) => Ok((link, welcome.pid.unsigned_abs())),
            (other, _) => Err(link::unexpected(&other)),
        }
    }

    /// Starts the init of the pod `id` that shares a pid namespace: its pid and a handle on it.
    ///
    /// # Errors
    /// What the helper could not do. One that was stuck over it is still there.
    pub async fn create_pod_init(
        &self,
        id: &str,
        init: &PodInit,
        user: Option<BorrowedFd<'_>>,
    ) -> Result<(i32, OwnedFd)> {
        let link = self.start(&["criquet-pod", "pod", id])?;
        let fds: Vec<BorrowedFd<'_>> = user.into_iter().collect();
        link.send_bytes(&init.encode_to_vec(), &fds).await?;
        let answer = tokio::time::timeout(CREATE_DEADLINE, link.receive())
            .await
            .map_err(|_| Fault::deadline_exceeded("the pod's init was not made in time"))??;
        match answer {
            Some((reply::Kind::Created(created), mut fds)) if fds.len() == 1 => {
                Ok((created.pid, fds.remove(0)))
            }
            Some((reply::Kind::Failed(failed), _)) => Err(link::refused(failed)),
            Some((other, _)) => Err(link::unexpected(&other)),
            None => Err(Fault::unavailable("the pod's init ended before it was made")),
        }
    }

    fn start(&self, args: &[&str]) -> Result<Link> {
        let (ours, theirs) = criquet_sys::socket::pair().or_internal(|| "making a shim's socket".into())?;
        let fds = [(theirs.as_fd(), shim::FIRST_CONNECTION_FD)];
        let child = criquet_sys::process::spawn_from_memfd(self.program.as_fd(), args, &fds)
            .or_internal(|| "starting a shim".into())?;
        drop(theirs);
        let pidfd = link::watched(child.pidfd)?;
        tokio::spawn(async move {
            // Readable means ended; only then does reaping not block.
            if pidfd.readable().await.is_ok()
                && let Err(error) = criquet_sys::process::reap(pidfd.get_ref().as_fd())
            {
                tracing::warn!(%error, "a shim could not be reaped");
            }
        });
        Link::new(ours)
    }
}

/// The exit record in a container's state directory, if its shim has written one.
///
/// # Errors
/// The record is there but cannot be read.
pub fn exit_record(dir: &Path) -> Result<Option<Exit>> {
    let path = dir.join(shim::EXIT_NAME);
    let doing = || format!("reading the exit record {path:?}");
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).or_internal(doing),
        Ok(metadata) if metadata.len() > EXIT_BYTES_MAX => {
            return Err(Fault::internal(format!("{}: too large", doing())));
        }
        Ok(_) => {}
    }
    let bytes = std::fs::read(&path).or_internal(doing)?;
    Exit::decode(bytes.as_slice()).map(Some).or_internal(doing)
}

/// One request on a connection of its own, answered by Done.
///
/// # Errors
/// As [`Link::call`].
pub async fn tell(dir: &Path, request: request::Kind) -> Result<()> {
    Link::connect(dir).await?.done(request, &[]).await
}

/// What became of the question how a shim's container is.
#[derive(Debug)]
pub enum Answer {
    /// What it says, and the connection over which it said it.
    State(shim::State, Link),
    /// No shim is there any more.
    Gone,
    /// It is there and does not answer, or not now.
    Stuck(Fault),
}

/// Asks a shim how its container is, for at most `deadline`.
pub async fn inspect(dir: &Path, deadline: Duration) -> Answer {
    let exchange = async {
        let link = Link::connect(dir).await?;
        match link
            .call(request::Kind::Inspect(shim::Inspect {}), &[], deadline)
            .await?
        {
            (reply::Kind::State(state), _) => Ok((state, link)),
            (other, _) => Err(link::unexpected(&other)),
        }
    };
    match tokio::time::timeout(deadline, exchange).await {
        Ok(Ok((state, link))) => Answer::State(state, link),
        // Nothing listens at its socket. Whatever else is wrong may pass.
        Ok(Err(fault)) if fault.kind == Kind::NotFound => Answer::Gone,
        Ok(Err(fault)) => Answer::Stuck(fault),
        Err(_) => Answer::Stuck(Fault::deadline_exceeded("a shim does not answer")),
    }
}
