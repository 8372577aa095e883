//! Readiness of many descriptors on one thread: epoll(7), level-triggered.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::{Error, Result};

/// What to be woken for. Errors and hang-ups always wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Data to read, or the end of it.
    Read,
    /// Room to write.
    Write,
    /// Both.
    Both,
    /// Errors and hang-ups alone.
    Hangup,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Read => epoll::EventFlags::IN,
            Self::Write => epoll::EventFlags::OUT,
            Self::Both => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            Self::Hangup => epoll::EventFlags::empty(),
        }
    }
}

/// One wake-up.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The number that the descriptor was added with.
    pub token: u64,
    /// Reading will not block (data, end of file or an error is there).
    pub readable: bool,
    /// Writing will not block.
    pub writable: bool,
    /// The other end is gone, or the descriptor is in error.
    pub hangup: bool,
}

/// An epoll instance.
pub struct Epoll {
    fd: OwnedFd,
    buffer: Vec<epoll::Event>,
}

impl std::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Epoll").field(&self.fd).finish()
    }
}

/// Events taken from the kernel at once; more stay there for the next round.
const BATCH: usize = 16;

impl Epoll {
    /// A new instance, close-on-exec.
    ///
    /// # Errors
    /// When the kernel is out of descriptors or memory.
    pub fn new() -> Result<Self> {
        let fd =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| Error::new("epoll_create1", "", e))?;
        Ok(Self {
            fd,
            buffer: Vec::with_capacity(BATCH),
        })
    }

    /// Watches `fd`; its events carry `token`.
    ///
    /// # Errors
    /// `EPERM` for a regular file or directory, which cannot be watched.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<()> {
        epoll::add(&self.fd, fd, epoll::EventData::new_u64(token), interest.flags())
            .map_err(|e| Error::new("epoll_ctl", format!("add {token:#x}"), e))
    }

    /// Changes what a watched `fd` wakes for.
    ///
    /// # Errors
    /// `ENOENT` when it is not watched.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<()> {
        epoll::modify(&self.fd, fd, epoll::EventData::new_u64(token), interest.flags())
            .map_err(|e| Error::new("epoll_ctl", format!("modify {token:#x}"), e))
    }

    /// Stops watching `fd`. Must come before the last copy of the descriptor elsewhere outlives ours:
    /// epoll watches open files, not descriptors.
    ///
    /// # Errors
    /// `ENOENT` when it is not watched.
    pub fn remove(&self, fd: impl AsFd) -> Result<()> {
        epoll::delete(&self.fd, fd).map_err(|e| Error::new("epoll_ctl", "delete", e))
    }

    /// Waits until something is ready or `timeout` (forever without one) has passed.
    ///
    /// # Errors
    /// Never for a signal: that returns no events.
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> Result<()> {
        events.clear();
        self.buffer.clear();
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        match epoll::wait(&self.fd, spare_capacity(&mut self.buffer), timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(e) => return Err(Error::new("epoll_pwait2", "", e)),
        }
        events.extend(self.buffer.iter().map(|event| {
            // Copies: the kernel's struct is packed.
            let (flags, data) = (event.flags, event.data);
            let hangup = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            Event {
                token: data.u64(),
                readable: hangup || flags.contains(epoll::EventFlags::IN),
                writable: hangup || flags.contains(epoll::EventFlags::OUT),
                hangup,
            }
        }));
        Ok(())
    }
}
