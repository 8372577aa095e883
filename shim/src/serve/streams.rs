//! Bytes between the container, its log and its attachers.

use std::os::fd::OwnedFd;
use std::time::Instant;

use criquet_sys::epoll::{Epoll, Interest};
use criquet_sys::pipe::{self, Progress};

use super::{Server, Token, note, unwatch};
use crate::limits::READ_BYTES;
use crate::state::Phase;
use crate::stdio::Stream;
use crate::stdio::sink::Sink;

impl Server {
    /// One batch of output.
    pub(super) fn read_output(&mut self, index: usize) {
        let mut buffer = self.take_buffer();
        let closed = self.take_output(index, &mut buffer);
        self.buffer = buffer;
        if closed {
            self.close_output(index);
        }
    }

    /// Reads, logs and hands one batch over; gives whether that was the end.
    fn take_output(&mut self, index: usize, buffer: &mut [u8]) -> bool {
        let Some(container) = &mut self.container else {
            return false;
        };
        let output = &mut container.outputs[index];
        let Some(fd) = output.fd() else { return false };
        let bytes = match pipe::read(fd, &mut buffer[..READ_BYTES]) {
            Ok(Progress::Bytes(n)) => &buffer[..n],
            Ok(Progress::Blocked) => return false,
            Ok(Progress::Closed) | Err(_) => return true,
        };
        output.log(bytes, &mut container.log);
        for attacher in container.attachers.values_mut() {
            if let Some(gone) = attacher
                .push(Stream::ALL[index], bytes)
                .filter(|sink| sink.watched)
            {
                unwatch(&self.epoll, gone.fd());
            }
        }
        false
    }

    pub(super) fn close_output(&mut self, index: usize) {
        let Some(container) = &mut self.container else {
            return;
        };
        let output = &mut container.outputs[index];
        if let Some(fd) = output.fd().filter(|_| output.watched) {
            unwatch(&self.epoll, fd);
        }
        output.close(&mut container.log);
    }

    /// The container has read some of its input.
    pub(super) fn write_input(&mut self) {
        if let Some(container) = &mut self.container {
            container.input.advance();
        }
    }

    /// An attacher has typed, or ended its input.
    pub(super) fn read_attacher(&mut self, id: u32) {
        let mut buffer = self.take_buffer();
        let ended = self.take_input(id, &mut buffer);
        self.buffer = buffer;
        let Some(container) = self.container.as_mut().filter(|_| ended) else {
            return;
        };
        if let Some(stdin) = container
            .attachers
            .get_mut(&id)
            .and_then(|attacher| attacher.stdin.take())
        {
            unwatch(&self.epoll, stdin);
        }
        if container.plan.stdin_once {
            container.input.close();
        }
    }

    fn take_input(&mut self, id: u32, buffer: &mut [u8]) -> bool {
        let Some(container) = &mut self.container else {
            return false;
        };
        let Some(stdin) = container
            .attachers
            .get(&id)
            .and_then(|attacher| attacher.stdin.as_ref())
        else {
            return false;
        };
        let room = container.input.room().min(READ_BYTES);
        if room == 0 {
            return false;
        }
        match pipe::read(stdin, &mut buffer[..room]) {
            Ok(Progress::Bytes(n)) => container.input.push(&buffer[..n]),
            Ok(Progress::Blocked) => {}
            Ok(Progress::Closed) | Err(_) => return true,
        }
        false
    }

    /// An attacher has read some of its output.
    pub(super) fn write_sink(&mut self, id: u32, index: usize) {
        let Some(attacher) = self.container.as_mut().and_then(|c| c.attachers.get_mut(&id)) else {
            return;
        };
        let place = &mut attacher.sinks[index];
        if place.as_mut().is_some_and(|sink| sink.advance().is_err())
            && let Some(gone) = place.take().filter(|sink| sink.watched)
        {
            unwatch(&self.epoll, gone.fd());
        }
    }

    /// Listens to exactly those that there is something to do with.
    pub(super) fn sync_streams(&mut self) {
        let Some(container) = &mut self.container else {
            return;
        };
        // At the end nothing more is written: no reason to hold it back, and the log must not wait.
        let ending = matches!(container.phase, Phase::Ending(_));
        for (index, output) in container.outputs.iter_mut().enumerate() {
            let held_back = !ending
                && container
                    .attachers
                    .values()
                    .any(|a| a.is_behind(Stream::ALL[index]));
            if let Some(fd) = output.fd().filter(|_| output.watched == held_back) {
                watch(&self.epoll, fd, !held_back, Token::Output(index), Interest::Read);
                output.watched = !held_back;
            }
        }
        let input = &mut container.input;
        if let Some(fd) = input.fd().filter(|_| input.watched != input.is_waiting()) {
            watch(&self.epoll, fd, input.is_waiting(), Token::Input, Interest::Write);
            input.watched = input.is_waiting();
        }
        input.drop_finished();
        let (open, room) = (input.is_open(), input.room() > 0);
        for (id, attacher) in &mut container.attachers {
            if let Some(fd) = attacher
                .stdin
                .as_ref()
                .filter(|_| attacher.stdin_watched != (open && room))
            {
                watch(
                    &self.epoll,
                    fd,
                    open && room,
                    Token::AttachStdin(*id),
                    Interest::Read,
                );
                attacher.stdin_watched = open && room;
            }
            if !open {
                // Whoever writes there learns that nobody reads.
                attacher.stdin = None;
            }
            for (index, sink) in attacher.sinks.iter_mut().enumerate() {
                if let Some(sink) = sink.as_mut().filter(|sink| sink.watched != sink.is_behind()) {
                    sink.watched = sink.is_behind();
                    watch(
                        &self.epoll,
                        sink.fd(),
                        sink.watched,
                        Token::Sink(*id, index),
                        Interest::Write,
                    );
                }
            }
        }
    }

    /// Parts of lines that have waited long enough; readers that have not moved for too long.
    pub(super) fn expire_streams(&mut self, now: Instant) {
        let Some(container) = &mut self.container else {
            return;
        };
        for output in &mut container.outputs {
            if output.deadline().is_some_and(|at| at <= now) {
                output.flush(&mut container.log);
            }
        }
        for attacher in container.attachers.values_mut() {
            for place in &mut attacher.sinks {
                let slow = |sink: &mut Sink| sink.deadline().is_some_and(|at| at <= now);
                if let Some(sink) = place.take_if(slow).filter(|sink| sink.watched) {
                    unwatch(&self.epoll, sink.fd());
                }
            }
        }
    }
}

fn watch(epoll: &Epoll, fd: &OwnedFd, wanted: bool, token: Token, interest: Interest) {
    note(if wanted {
        epoll.add(fd, token.encode(), interest)
    } else {
        epoll.remove(fd)
    });
}
