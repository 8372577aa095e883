//! Bytes between a process's descriptors and a session's streams.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::inbox::Inbox;
use crate::outbox::{Gone, Outbox, PIECE};

/// After the process ended, a child that it left behind may hold its stdout open: we wait this long for an end of
/// file. What the process wrote is in the pipe by then and is sent in any case.
pub(crate) const DRAIN: Duration = Duration::from_secs(1);

/// And from then on at most this much is read: the largest pipe that an unprivileged process can make
/// (`/proc/sys/fs/pipe-max-size`). More is the left child's, which may write for ever.
const DRAIN_MAX: usize = 1024 * 1024;

/// What a terminal's master says when no slave is open any more.
const EIO: i32 = 5;

/// Set to the end of [`DRAIN`] when the process ended.
pub(crate) type Exited = watch::Receiver<Option<Instant>>;

/// Reads `fd` to its end and sends what comes on `stream`; without one, to nobody.
pub(crate) async fn output(
    fd: OwnedFd,
    out: &Outbox,
    stream: Option<u32>,
    mut exited: Exited,
) -> std::io::Result<()> {
    let from = Receiver::from_file_unchecked(File::from(fd))?;
    let mut after = 0;
    while after < DRAIN_MAX {
        tokio::select! {
            biased;
            ready = from.readable() => ready?,
            () = drained(&mut exited) => return Ok(()),
        }
        // Lives while bytes come: an idle session holds no buffer.
        let mut piece = vec![0; PIECE];
        while after < DRAIN_MAX {
            let read = match from.try_read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(EIO) => return Ok(()),
                Err(error) => return Err(error),
            };
            if exited.borrow().is_some_and(|end| Instant::now() > end) {
                after += read;
            }
            if let Some(stream) = stream
                && let Err(Gone) = out.data(stream, &piece[..read]).await
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Ends [`DRAIN`] after the process.
async fn drained(exited: &mut Exited) {
    let end = match exited.wait_for(Option::is_some).await {
        Ok(end) => *end,
        Err(_) => None,
    };
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Writes what comes into `fd` and closes it at the end of the stream. When the process reads no more, the rest is
/// dropped: else it would keep the client's other streams from us.
pub(crate) async fn input(fd: Option<OwnedFd>, mut inbox: Inbox) -> std::io::Result<()> {
    let mut to = match fd {
        Some(fd) => Some(Sender::from_file_unchecked(File::from(fd))?),
        None => None,
    };
    while let Some(bytes) = inbox.recv().await {
        if let Some(open) = &mut to
            && let Err(error) = open.write_all(&bytes).await
        {
            tracing::debug!(%error, "the process reads its stdin no more");
            to = None;
        }
    }
    Ok(())
}
