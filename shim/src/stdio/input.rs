//! The container's stdin: what attachers typed and the container has not read yet.

use std::os::fd::OwnedFd;

use criquet_sys::pipe::{self, Progress};

use crate::limits::STDIN_QUEUE_BYTES;

/// The write end of the container's stdin, with a bounded queue.
#[derive(Debug)]
pub struct Input {
    fd: Option<OwnedFd>,
    /// A terminal's input cannot be closed on its own.
    terminal: bool,
    queue: Vec<u8>,
    closing: bool,
    /// Whether epoll wakes for it.
    pub watched: bool,
}

impl Input {
    /// `fd` does not block; `None`: the container's stdin is /dev/null.
    #[must_use]
    pub fn new(fd: Option<OwnedFd>, terminal: bool) -> Self {
        Self {
            fd,
            terminal,
            queue: Vec::new(),
            closing: false,
            watched: false,
        }
    }

    /// The descriptor, while it is open.
    #[must_use]
    pub fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// Whether the container can still be given input.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.fd.is_some() && !self.closing
    }

    /// Whether something waits for the container to read.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Bytes that may be pushed now.
    #[must_use]
    pub fn room(&self) -> usize {
        STDIN_QUEUE_BYTES.saturating_sub(self.queue.len())
    }

    /// Adds input; what the container does not take at once waits. Without an open stdin it is thrown away.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.is_open() {
            self.queue.extend_from_slice(bytes);
            self.advance();
        }
    }

    /// No more input will come: the container sees the end once it has read all. A terminal stays open.
    pub fn close(&mut self) {
        if !self.terminal {
            self.closing = true;
            self.advance();
        }
    }

    /// Writes what fits.
    pub fn advance(&mut self) {
        let Some(fd) = &self.fd else { return };
        let mut done = 0;
        while done < self.queue.len() {
            match pipe::write(fd, &self.queue[done..]) {
                Ok(Progress::Bytes(n)) => done += n,
                Ok(Progress::Blocked) => break,
                Ok(Progress::Closed) | Err(_) => {
                    // Nobody reads any more.
                    self.closing = true;
                    done = self.queue.len();
                }
            }
        }
        if done == self.queue.len() {
            self.queue = Vec::new();
        } else {
            self.queue.drain(..done);
        }
    }

    /// Closes the descriptor once there is no more use for it; epoll must not know it any more.
    pub fn drop_finished(&mut self) {
        if self.closing && self.queue.is_empty() && !self.watched {
            self.fd = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pipe_makes_input_wait_and_close_comes_last() {
        let pipe = pipe::pipe().unwrap();
        pipe::set_nonblocking(&pipe.write).unwrap();
        pipe::set_nonblocking(&pipe.read).unwrap();
        let mut input = Input::new(Some(pipe.write), false);
        input.push(&[b'x'; STDIN_QUEUE_BYTES]);
        assert!(!input.is_waiting());
        input.push(b"rest");
        input.close();
        assert!(input.is_waiting() && !input.is_open() && input.fd().is_some());
        let (mut got, mut buffer) = (0, [0; 4096]);
        loop {
            match pipe::read(&pipe.read, &mut buffer).unwrap() {
                Progress::Bytes(n) => got += n,
                Progress::Blocked => {
                    input.advance();
                    input.drop_finished();
                }
                Progress::Closed => break,
            }
        }
        assert_eq!(got, STDIN_QUEUE_BYTES + 4);
    }
}
