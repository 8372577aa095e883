//! The shim's one loop: requests, output, input and the end of processes, on one thread.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use criquet_proto::shim::{FIRST_CONNECTION_FD, MESSAGE_BYTES_MAX, SOCKET_NAME, reply};
use criquet_sys::epoll::{Epoll, Event, Interest};
use criquet_sys::signal::{self, SignalFd};
use criquet_sys::{heap, pipe, session, socket};

use crate::child::Failure;
use crate::complain;
use crate::limits::{ACCEPT_PAUSE, CONNECTIONS_MAX, IDLE_TRIM, READ_BYTES};
use crate::state::{Container, Phase, Step};

mod connection;
mod create;
mod ending;
mod exec;
mod request;
mod streams;
mod token;

pub(crate) use connection::failed;
use connection::{Connection, Pending};
use token::Token;

/// Serves one container, from its first connection (descriptor 3) to its end.
///
/// # Errors
/// When the process was started in another way, or the kernel is out of descriptors.
pub fn run() -> Result<(), Failure> {
    let first = socket::inherited(FIRST_CONNECTION_FD)?;
    session::close_from(FIRST_CONNECTION_FD.unsigned_abs() + 1)?;
    session::lead();
    session::set_name(c"criquet-shim")?;
    heap::prefer_small();
    // Nothing but SIGKILL ends a shim: whoever wants the container to stop signals the container.
    signal::block_all()?;
    pipe::set_nonblocking(&first)?;
    Server::new(first)?.serve()
}

struct Server {
    epoll: Epoll,
    signals: SignalFd,
    listener: Option<OwnedFd>,
    /// Set while there are no descriptors for more connections.
    accept_at: Option<Instant>,
    connections: BTreeMap<u32, Connection>,
    last_id: u32,
    container: Option<Container>,
    /// For one read or one message; empty while idle.
    buffer: Vec<u8>,
    trim_at: Option<Instant>,
    quit: bool,
}

impl Server {
    fn new(first: OwnedFd) -> Result<Self, Failure> {
        let (epoll, signals) = (Epoll::new()?, SignalFd::new(&[signal::SIGCHLD])?);
        epoll.add(&signals, Token::Signals.encode(), Interest::Read)?;
        let mut server = Self {
            epoll,
            signals,
            listener: None,
            accept_at: None,
            connections: BTreeMap::new(),
            last_id: 0,
            container: None,
            buffer: Vec::new(),
            trim_at: None,
            quit: false,
        };
        server.connect(first)?;
        Ok(server)
    }

    fn serve(mut self) -> Result<(), Failure> {
        let mut events = Vec::new();
        loop {
            self.sync();
            if self.is_finished() {
                break;
            }
            self.epoll.wait(self.timeout(), &mut events)?;
            for event in &events {
                self.dispatch(*event);
            }
            self.expire();
        }
        if let Some(container) = &self.container {
            std::fs::remove_file(container.state_dir.join(SOCKET_NAME)).unwrap_or_else(|e| {
                complain(&format!(
                    "remove the socket of {}: {e}",
                    container.plan.container_id
                ))
            });
        }
        Ok(())
    }

    fn dispatch(&mut self, event: Event) {
        match Token::decode(event.token) {
            Some(Token::Signals) => self.reap(),
            Some(Token::Listener) => self.accept(),
            Some(Token::Connection(id)) => {
                if event.writable
                    && self
                        .connections
                        .get_mut(&id)
                        .is_some_and(|c| c.advance().is_err())
                {
                    self.disconnect(id);
                }
                if event.readable {
                    self.receive(id);
                }
            }
            Some(Token::Output(index)) => self.read_output(index),
            Some(Token::Input) => self.write_input(),
            Some(Token::AttachStdin(id)) => self.read_attacher(id),
            Some(Token::Sink(id, index)) => self.write_sink(id, index),
            None => {}
        }
    }

    /// Brings everything in line with what has happened: the end of the container, and who is listened to.
    fn sync(&mut self) {
        self.give_up_if_alone();
        self.advance_ending();
        self.sync_streams();
        for (id, connection) in &mut self.connections {
            let wanted = connection.is_behind();
            if wanted != connection.watched_for_write {
                connection.watched_for_write = wanted;
                let interest = if wanted { Interest::Both } else { Interest::Read };
                note(
                    self.epoll
                        .modify(&*connection, Token::Connection(*id).encode(), interest),
                );
            }
        }
    }

    fn is_finished(&self) -> bool {
        let ended = |c: &Container| matches!(&c.phase, Phase::Ending(ending) if ending.step == Step::Done);
        self.quit || self.container.as_ref().is_some_and(ended)
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut first = self.trim_at.into_iter().chain(self.accept_at).min();
        let mut at = |time: Option<Instant>| first = first.into_iter().chain(time).min();
        if let Some(container) = &self.container {
            container.outputs.iter().for_each(|output| at(output.deadline()));
            container
                .attachers
                .values()
                .for_each(|attacher| at(attacher.deadline()));
            if let Phase::Ending(ending) = &container.phase {
                at(Some(
                    ending.again.map_or(ending.until, |again| again.min(ending.until)),
                ));
            }
        }
        first.map(|time| time.saturating_duration_since(now))
    }

    /// What is due by the clock alone.
    fn expire(&mut self) {
        let now = Instant::now();
        self.expire_streams(now);
        if let Some(listener) = self
            .listener
            .as_ref()
            .filter(|_| self.accept_at.is_some_and(|at| at <= now))
        {
            self.accept_at = None;
            note(self.epoll.add(listener, Token::Listener.encode(), Interest::Read));
        }
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = None;
            self.buffer = Vec::new();
            if let Some(container) = &mut self.container {
                container.log.trim();
            }
            heap::trim();
        }
    }

    /// The buffer, taken out so that the rest of the server can be used; to be put back.
    fn take_buffer(&mut self) -> Vec<u8> {
        self.trim_at = Some(Instant::now() + IDLE_TRIM);
        let buffer = std::mem::take(&mut self.buffer);
        // Fresh pages cost nothing until they are written to.
        if buffer.is_empty() {
            vec![0; MESSAGE_BYTES_MAX.max(READ_BYTES)]
        } else {
            buffer
        }
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            match socket::accept(listener) {
                Ok(Some(fd)) if self.connections.len() < CONNECTIONS_MAX => {
                    if let Err(failure) = self.connect(fd) {
                        complain(&failure.message);
                    }
                }
                Ok(Some(fd)) => drop(fd),
                Ok(None) => return,
                Err(error) => {
                    // Whoever waits there would wake us at once, again and again.
                    complain(&error.to_string());
                    if self.accept_at.is_none() {
                        unwatch(&self.epoll, listener);
                    }
                    self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn connect(&mut self, fd: OwnedFd) -> Result<(), Failure> {
        self.last_id += 1;
        self.epoll
            .add(&fd, Token::Connection(self.last_id).encode(), Interest::Read)?;
        self.connections.insert(self.last_id, Connection::new(fd));
        Ok(())
    }

    /// A lost connection ends nothing but what it was for.
    fn disconnect(&mut self, id: u32) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        note(self.epoll.remove(&connection));
        let Some(container) = &mut self.container else {
            return;
        };
        match connection.pending {
            Pending::Exec(pid) => {
                if let Some(exec) = container.execs.get_mut(&pid) {
                    exec.connection = None;
                    exec.terminal = None;
                }
            }
            Pending::Attach => self.detach(id),
            Pending::Nothing | Pending::Wait | Pending::Ended => {}
        }
    }

    fn reply(&mut self, id: u32, kind: reply::Kind, fd: Option<OwnedFd>) {
        if self
            .connections
            .get_mut(&id)
            .is_some_and(|c| c.reply(kind, fd).is_err())
        {
            self.disconnect(id);
        }
    }

    /// A container that nobody has started and nobody can start any more is taken away.
    fn give_up_if_alone(&mut self) {
        if !self.connections.is_empty() {
            return;
        }
        self.accept();
        if !self.connections.is_empty() {
            return;
        }
        // A container waits for the next daemon, whatever its state; that one takes away what it does not know.
        self.quit = self.container.is_none();
    }
}

/// An error that changes nothing: it is told, and that is all.
fn note(done: criquet_sys::Result<()>) {
    if let Err(error) = done {
        complain(&error.to_string());
    }
}

/// Forgets a descriptor that is about to be closed or given away: epoll would keep it as long as anybody else
/// has a copy.
fn unwatch(epoll: &Epoll, fd: impl AsFd) {
    note(epoll.remove(fd));
}
