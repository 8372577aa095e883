//! One attacher's end of one output stream.

use std::os::fd::OwnedFd;
use std::time::Instant;

use criquet_sys::pipe::{self, Progress};

use crate::limits::{SINK_QUEUE_BYTES, SINK_STALL};

/// Takes output as fast as its reader does, and holds the rest.
#[derive(Debug)]
pub struct Sink {
    fd: OwnedFd,
    queue: Vec<u8>,
    /// Bytes of `queue` that are written already.
    done: usize,
    progress_at: Instant,
    /// Whether epoll knows the descriptor.
    pub watched: bool,
}

/// Nobody reads there any more, or too slowly.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

impl Sink {
    /// `fd` is made non-blocking.
    ///
    /// # Errors
    /// Never in practice.
    pub fn new(fd: OwnedFd) -> Result<Self, criquet_sys::Error> {
        pipe::set_nonblocking(&fd)?;
        Ok(Self {
            fd,
            queue: Vec::new(),
            done: 0,
            progress_at: Instant::now(),
            watched: false,
        })
    }

    /// The descriptor.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Whether the reader is behind.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When the reader is given up, if it is behind.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.is_behind().then(|| self.progress_at + SINK_STALL)
    }

    /// Hands `bytes` over, or queues them.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
        if !self.is_behind() {
            self.progress_at = Instant::now();
            while !bytes.is_empty() {
                match pipe::write(&self.fd, bytes) {
                    Ok(Progress::Bytes(n)) => bytes = &bytes[n..],
                    Ok(Progress::Blocked) => break,
                    Ok(Progress::Closed) | Err(_) => return Err(Gone),
                }
            }
        }
        if self.queue.len() - self.done + bytes.len() > SINK_QUEUE_BYTES {
            return Err(Gone);
        }
        self.queue.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes what fits of the queue.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn advance(&mut self) -> Result<(), Gone> {
        while self.done < self.queue.len() {
            match pipe::write(&self.fd, &self.queue[self.done..]) {
                Ok(Progress::Bytes(n)) => {
                    self.done += n;
                    self.progress_at = Instant::now();
                }
                Ok(Progress::Blocked) => return Ok(()),
                Ok(Progress::Closed) | Err(_) => return Err(Gone),
            }
        }
        self.queue = Vec::new();
        self.done = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_gets_all_in_order() {
        let pipe = pipe::pipe().unwrap();
        pipe::set_nonblocking(&pipe.read).unwrap();
        let mut sink = Sink::new(pipe.write).unwrap();
        let sent: Vec<u8> = (0..200_000u32).map(|i| i.to_le_bytes()[1]).collect();
        for piece in sent.chunks(30_000) {
            sink.push(piece).unwrap();
        }
        assert!(sink.is_behind() && sink.deadline().is_some());
        let (mut got, mut buffer) = (Vec::new(), [0; 5000]);
        while got.len() < sent.len() {
            match pipe::read(&pipe.read, &mut buffer).unwrap() {
                Progress::Bytes(n) => got.extend_from_slice(&buffer[..n]),
                _ => sink.advance().unwrap(),
            }
        }
        sink.advance().unwrap();
        assert!(got == sent && !sink.is_behind());
        drop(pipe.read);
        assert_eq!(sink.push(b"x"), Err(Gone));
    }

    #[test]
    fn the_queue_is_bounded() {
        let pipe = pipe::pipe().unwrap();
        let mut sink = Sink::new(pipe.write).unwrap();
        let piece = vec![0; 256 * 1024];
        let taken = (0..100).take_while(|_| sink.push(&piece).is_ok()).count();
        assert_eq!(taken, SINK_QUEUE_BYTES / piece.len());
    }
}
