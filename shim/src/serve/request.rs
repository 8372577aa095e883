//! What can be asked, and its answers.

use std::os::fd::OwnedFd;

use criquet_proto::shim::{
    Attach, Done, FDS_MAX, Request, Resize, Signal, Started, VERSION, Welcome, reply, request,
};
use criquet_sys::epoll::Interest;
use criquet_sys::socket::{self, Packet};
use criquet_sys::{pidfd, pty, signal};
use prost::Message;

use super::connection::{Pending, failed};
use super::{Server, Token};
use crate::attach::Attacher;
use crate::child::Failure;
use crate::log::time::now_ns;
use crate::state::{Container, Phase, invalid, out_of_state};
use crate::stdio::sink::Sink;

/// A reply with what travels along; none yet when the request waits for something.
pub(super) type Answer = Result<Option<(reply::Kind, Option<OwnedFd>)>, Failure>;

/// An answer at once.
pub(super) fn now(kind: reply::Kind) -> Answer {
    Ok(Some((kind, None)))
}

fn done() -> Answer {
    now(reply::Kind::Done(Done {}))
}

impl Server {
    /// Takes one message of a connection.
    pub(super) fn receive(&mut self, id: u32) {
        let mut buffer = self.take_buffer();
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let packet = socket::receive(connection, &mut buffer, FDS_MAX);
        let request = match &packet {
            Ok(Packet::Data(size, _)) => Request::decode(&buffer[..*size]),
            _ => Ok(Request::default()),
        };
        self.buffer = buffer;
        match (packet, request) {
            (Ok(Packet::Blocked), _) => {}
            (Ok(Packet::Closed) | Err(_), _) => self.disconnect(id),
            (Ok(Packet::Data(_, fds)), Ok(Request { kind: Some(kind) })) => self.request(id, kind, fds),
            (Ok(Packet::Data(..)), Ok(_)) => self.refuse(id, &invalid("an unknown request")),
            (Ok(Packet::Data(..)), Err(error)) => {
                self.refuse(id, &invalid(format!("decode a request: {error}")))
            }
        }
    }

    fn request(&mut self, id: u32, kind: request::Kind, fds: Vec<OwnedFd>) {
        match self.answer(id, kind, fds) {
            Ok(Some((kind, fd))) => self.reply(id, kind, fd),
            Ok(None) => {}
            Err(failure) => self.refuse(id, &failure),
        }
    }

    fn refuse(&mut self, id: u32, failure: &Failure) {
        self.reply(id, failed(failure), None);
    }

    fn answer(&mut self, id: u32, kind: request::Kind, fds: Vec<OwnedFd>) -> Answer {
        let pending = self.check_turn(id, &kind)?;
        match kind {
            request::Kind::Hello(_) => {
                let pid = i32::try_from(std::process::id()).unwrap_or(0);
                now(reply::Kind::Welcome(Welcome {
                    version: VERSION,
                    pid,
                }))
            }
            request::Kind::Create(_) => self.create(&fds),
            request::Kind::Start(_) => self.start(),
            request::Kind::Wait(_) => self.wait(id),
            request::Kind::Signal(signal) => self.signal(pending, &signal),
            request::Kind::Exec(exec) => self.exec(id, &exec, fds),
            request::Kind::Attach(attach) => self.attach(id, &attach, fds),
            request::Kind::Resize(size) => self.resize(pending, size),
            request::Kind::CloseStdin(_) => {
                // An exec's stdin is not ours: whoever gave it closes it.
                if !matches!(pending, Pending::Exec(_)) {
                    self.container()?.input.close();
                }
                done()
            }
            request::Kind::ReopenLog(_) => {
                self.container()?.log.reopen()?;
                done()
            }
            request::Kind::Inspect(_) => now(reply::Kind::State(self.container()?.describe())),
        }
    }

    /// Hello comes first, and one request at a time; some may interrupt.
    fn check_turn(&mut self, id: u32, kind: &request::Kind) -> Result<Pending, Failure> {
        let connection = self
            .connections
            .get_mut(&id)
            .ok_or_else(|| out_of_state("the connection is closed"))?;
        if matches!(kind, request::Kind::Hello(_)) {
            connection.greeted = true;
        }
        let may_interrupt = matches!(
            kind,
            request::Kind::Signal(_) | request::Kind::Resize(_) | request::Kind::CloseStdin(_)
        );
        if !connection.greeted {
            return Err(out_of_state("the first request must be Hello"));
        }
        if connection.pending == Pending::Ended {
            return Err(out_of_state("the process of this connection has ended"));
        }
        if connection.pending != Pending::Nothing && !may_interrupt {
            return Err(out_of_state("another request is under way on this connection"));
        }
        Ok(connection.pending)
    }

    pub(super) fn container(&mut self) -> Result<&mut Container, Failure> {
        self.container
            .as_mut()
            .ok_or_else(|| out_of_state("there is no container yet"))
    }

    pub(super) fn set_pending(&mut self, id: u32, pending: Pending) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.pending = pending;
        }
    }

    fn start(&mut self) -> Answer {
        let container = self.container()?.alive()?;
        if !matches!(container.phase, Phase::Created) {
            return Err(out_of_state("the container has been started before"));
        }
        container.phase = Phase::Running;
        match container.init.release() {
            Ok(()) => {
                container.started_at_ns = now_ns();
                let (pid, started_at_ns) = (container.init.pid, container.started_at_ns);
                now(reply::Kind::Started(Started {
                    pid,
                    started_at_ns,
                    terminal: false,
                }))
            }
            Err(failure) => {
                // It ends by itself; this makes sure. What follows is an end like any other.
                pidfd::signal(&container.init.pidfd, signal::SIGKILL).ok();
                let told = Failure {
                    kind: failure.kind,
                    message: failure.message.clone(),
                };
                container.failure = Some(failure);
                Err(told)
            }
        }
    }

    fn wait(&mut self, id: u32) -> Answer {
        if let Some(exit) = self.container()?.recorded_exit() {
            return now(reply::Kind::Exit(exit.clone()));
        }
        self.set_pending(id, Pending::Wait);
        Ok(None)
    }

    fn signal(&mut self, pending: Pending, request: &Signal) -> Answer {
        if !(1..=signal::MAX).contains(&request.signal) {
            return Err(invalid(format!("signal {} does not exist", request.signal)));
        }
        let container = self.container()?;
        if let Pending::Exec(pid) = pending {
            container.signal_exec(pid, request.signal, request.all)?;
        } else {
            container.signal(request.signal, request.all)?;
        }
        done()
    }

    fn resize(&mut self, pending: Pending, size: Resize) -> Answer {
        let container = self.container()?;
        let terminal = match pending {
            Pending::Exec(pid) => container.execs.get(&pid).and_then(|exec| exec.terminal.as_ref()),
            _ => container.init.terminal.as_ref(),
        };
        let terminal = terminal.ok_or_else(|| invalid("resize: the process has no terminal"))?;
        pty::resize(terminal, size.width, size.height)?;
        done()
    }

    fn attach(&mut self, id: u32, request: &Attach, fds: Vec<OwnedFd>) -> Answer {
        let mut fds = named(fds, [request.stdin, request.stdout, request.stderr])?;
        let epoll = &self.epoll;
        let container = self
            .container
            .as_mut()
            .ok_or_else(|| out_of_state("there is no container yet"))?
            .alive()?;
        let mut attacher = Attacher::default();
        for (sink, fd) in attacher.sinks.iter_mut().zip(&mut fds[1..]) {
            *sink = fd.take().map(Sink::new).transpose()?;
        }
        if let Some(stdin) = fds[0].take().filter(|_| container.input.is_open()) {
            criquet_sys::pipe::set_nonblocking(&stdin)?;
            epoll
                .add(&stdin, Token::AttachStdin(id).encode(), Interest::Read)
                .map_err(|e| invalid(format!("attach: stdin is neither a pipe nor a socket: {e}")))?;
            attacher.stdin = Some(stdin);
            attacher.stdin_watched = true;
        }
        container.attachers.insert(id, attacher);
        self.set_pending(id, Pending::Attach);
        done()
    }
}

/// The three streams of a request, whose descriptors come in order and without gaps.
pub(super) fn named(fds: Vec<OwnedFd>, flags: [bool; 3]) -> Result<[Option<OwnedFd>; 3], Failure> {
    let wanted = flags.iter().filter(|flag| **flag).count();
    if fds.len() != wanted {
        return Err(invalid(format!(
            "{wanted} streams were announced, {} descriptors came",
            fds.len()
        )));
    }
    let mut fds = fds.into_iter();
    Ok(flags.map(|flag| if flag { fds.next() } else { None }))
}
