//! The container's output: from its pipe to the log and to those who are attached.

use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::limits::LOG_PART_HOLD;
use crate::log::Log;
use crate::log::line::Lines;
use crate::log::time::{now_ns, stamp};

use super::Stream;

/// One output stream as the shim reads it.
#[derive(Debug)]
pub struct Output {
    fd: Option<OwnedFd>,
    lines: Lines,
    part_until: Option<Instant>,
    /// Whether epoll wakes for it.
    pub watched: bool,
}

impl Output {
    /// `fd` does not block.
    #[must_use]
    pub fn new(stream: Stream, fd: Option<OwnedFd>) -> Self {
        Self {
            fd,
            lines: Lines::new(stream.name()),
            part_until: None,
            watched: false,
        }
    }

    /// The descriptor, until its end was read.
    #[must_use]
    pub fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// When a part of a line is logged although its end has not come.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.part_until
    }

    /// Logs what was read.
    pub fn log(&mut self, bytes: &[u8], log: &mut Log) {
        if !log.exists() {
            return;
        }
        self.lines.push(bytes, &stamp(now_ns()), log.batch());
        log.commit();
        if !self.lines.holds_part() {
            self.part_until = None;
        } else if self.part_until.is_none() || bytes.contains(&b'\n') {
            self.part_until = Some(Instant::now() + LOG_PART_HOLD);
        }
    }

    /// Logs the start of a line that waits, if one does.
    pub fn flush(&mut self, log: &mut Log) {
        self.part_until = None;
        if self.lines.holds_part() {
            self.lines.flush(&stamp(now_ns()), log.batch());
            log.commit();
        }
    }

    /// Its end was read, or nobody wants more of it.
    pub fn close(&mut self, log: &mut Log) {
        self.flush(log);
        self.fd = None;
        self.watched = false;
    }
}
