//! The other end of streaming sessions: execs, attachments and connections into pods.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use criquet_proto::shim::{self, reply, request};
use criquet_stream::{Backend, Outcome, Running, Session, Size, Stdio};
use criquet_sys::pipe::{self, Pipe};

use crate::container::create::connect;
use crate::container::exec::{self, Exec, Streams, Wanted};
use crate::container::record::{Container, State};
use crate::fault::{Fault, OrFault, Result};
use crate::runtime::Runtime;
use crate::sandbox::config::Network;
use crate::sandbox::namespaces;
use crate::supervise::link::{self, Link};

/// A port inside a pod answers at once, or not at all: nothing is between.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Gives sessions their processes.
#[derive(Debug)]
pub struct Sessions {
    /// What they are in.
    pub runtime: Arc<Runtime>,
}

/// An exec or an attachment.
#[derive(Debug)]
pub struct Attended {
    stdio: Option<Stdio>,
    /// Its end was told.
    ended: bool,
    kind: Attending,
}

#[derive(Debug)]
enum Attending {
    Exec(Arc<Exec>),
    Attach(Arc<Link>, Arc<Container>),
}

impl Backend for Sessions {
    type Running = Attended;

    async fn exec(&self, session: Session) -> std::result::Result<Attended, String> {
        let Session::Exec {
            container,
            command,
            tty,
            stdin,
            stdout,
            stderr,
        } = session
        else {
            return Err("not an exec".into());
        };
        let start = async {
            let container = self.runtime.containers.get(&container)?;
            let wanted = Wanted {
                tty,
                stdin,
                stdout,
                stderr,
            };
            let (exec, streams) = exec::start(&container, command, wanted).await?;
            Ok::<_, Fault>(Attended {
                stdio: Some(stdio(streams, stdin)?),
                ended: false,
                kind: Attending::Exec(Arc::new(exec)),
            })
        };
        start.await.map_err(|fault| fault.message)
    }

    async fn attach(&self, session: Session) -> std::result::Result<Attended, String> {
        let Session::Attach {
            container,
            tty: _,
            stdin,
            stdout,
            stderr,
        } = session
        else {
            return Err("not an attach".into());
        };
        let start = async {
            let container = self.runtime.containers.get(&container)?;
            container.require_running("attach to")?;
            attach(container, stdin, stdout, stderr).await
        };
        start.await.map_err(|fault| fault.message)
    }

    async fn connect(&self, sandbox: &str, port: u16) -> std::result::Result<TcpStream, String> {
        let dial = async {
            let sandbox = self.runtime.sandboxes.get(sandbox)?;
            let netns = match sandbox.config.namespaces.network {
                Network::Pod => Some(namespaces::open(&sandbox.dir, "net")?),
                Network::Node => None,
            };
            tokio::task::spawn_blocking(move || dial(netns.as_ref().map(AsFd::as_fd), port))
                .await
                .or_internal(|| "connecting".into())?
        };
        dial.await.map_err(|fault: Fault| fault.message)
    }
}

fn dial(netns: Option<BorrowedFd<'_>>, port: u16) -> Result<TcpStream> {
    let connect = || {
        // As kubectl's users expect: whatever of the two answers.
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        TcpStream::connect_timeout(&v4, CONNECT_DEADLINE)
            .or_else(|first| TcpStream::connect_timeout(&v6, CONNECT_DEADLINE).map_err(|_| first))
    };
    let connected = match netns {
        None => connect(),
        Some(netns) => criquet_sys::namespace::in_netns(netns, connect)
            .or_internal(|| "joining the pod's network".into())?,
    };
    connected.map_err(|error| Fault::unavailable(format!("connecting to port {port} in the pod: {error}")))
}

fn stdio(streams: Streams, stdin: bool) -> Result<Stdio> {
    if let Some(master) = streams.terminal {
        let input = if stdin {
            Some(master.try_clone().or_internal(|| "sharing a terminal".into())?)
        } else {
            None
        };
        return nonblocking(Stdio {
            stdin: input,
            stdout: Some(master),
            stderr: None,
        });
    }
    nonblocking(Stdio {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    })
}

fn nonblocking(stdio: Stdio) -> Result<Stdio> {
    for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
        pipe::set_nonblocking(fd).or_internal(|| "preparing a stream".into())?;
    }
    Ok(stdio)
}

async fn attach(container: Arc<Container>, stdin: bool, stdout: bool, stderr: bool) -> Result<Attended> {
    let mut stdio = Stdio::default();
    let mut theirs: Vec<OwnedFd> = Vec::new();
    if stdin {
        let Pipe { read, write } = pipe::pipe().or_internal(|| "making a pipe".into())?;
        stdio.stdin = Some(write);
        theirs.push(read);
    }
    for (want, ours) in [(stdout, &mut stdio.stdout), (stderr, &mut stdio.stderr)] {
        if want {
            let Pipe { read, write } = pipe::pipe().or_internal(|| "making a pipe".into())?;
            *ours = Some(read);
            theirs.push(write);
        }
    }
    let link = connect(&container).await?;
    let fds: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
    link.done(
        request::Kind::Attach(shim::Attach {
            stdin,
            stdout,
            stderr,
        }),
        &fds,
    )
    .await?;
    Ok(Attended {
        stdio: Some(nonblocking(stdio)?),
        ended: false,
        kind: Attending::Attach(Arc::new(link), container),
    })
}

impl Running for Attended {
    fn stdio(&mut self) -> Stdio {
        self.stdio.take().unwrap_or_default()
    }

    async fn wait(&mut self) -> Outcome {
        let exit = match &self.kind {
            Attending::Exec(exec) => exec.wait().await.map(|exit| exit.code),
            Attending::Attach(link, container) => wait_attached(link, container).await,
        };
        self.ended = true;
        match exit {
            Ok(code) => Outcome::Exited(code),
            Err(fault) => Outcome::Failed(fault.message),
        }
    }

    fn resizer(&self) -> Arc<dyn Fn(Size) + Send + Sync> {
        match &self.kind {
            Attending::Exec(exec) => {
                let exec = Arc::clone(exec);
                Arc::new(move |size| {
                    let exec = Arc::clone(&exec);
                    tokio::spawn(async move { exec.resize(size.width.into(), size.height.into()).await });
                })
            }
            Attending::Attach(link, _) => {
                let link = Arc::clone(link);
                Arc::new(move |size| {
                    let link = Arc::clone(&link);
                    let resize = shim::Resize {
                        width: size.width.into(),
                        height: size.height.into(),
                    };
                    tokio::spawn(async move { link.send(request::Kind::Resize(resize), &[]).await });
                })
            }
        }
    }
}

async fn wait_attached(link: &Link, container: &Container) -> Result<i32> {
    loop {
        match link.receive().await? {
            Some((reply::Kind::Exit(exit), _)) => return Ok(exit.code),
            // The answer to a resize.
            Some((reply::Kind::Done(_) | reply::Kind::Failed(_), _)) => {}
            Some((other, _)) => return Err(link::unexpected(&other)),
            // Dropped for being slow, or the shim ended.
            None => match container.state() {
                State::Exited(ended) => return Ok(ended.code),
                _ => return Err(Fault::unavailable("the attachment was ended")),
            },
        }
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        // A client that leaves ends its exec; one that ended already does not mind.
        if let Attending::Exec(exec) = &self.kind
            && !self.ended
        {
            let exec = Arc::clone(exec);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { exec.kill().await });
            }
        }
    }
}
