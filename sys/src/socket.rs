//! Packets and descriptors between processes: unix(7) SOCK_SEQPACKET, SCM_RIGHTS.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::{Error, Result};

/// Descriptors that fit into one packet: what the kernel allows (SCM_MAX_FD).
pub const FDS_MAX: usize = 253;

/// A packet as it arrived.
#[derive(Debug)]
pub enum Packet {
    /// So many bytes of the buffer, and descriptors (close-on-exec).
    Data(usize, Vec<OwnedFd>),
    /// Nothing there now (non-blocking sockets alone).
    Blocked,
    /// The other end is closed.
    Closed,
}

/// Two connected ends, close-on-exec and blocking.
///
/// # Errors
/// When the kernel is out of descriptors or memory.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| Error::new("socketpair", "seqpacket", e))
}

/// Listens at `path` (mode 0600, an old socket there is replaced). Non-blocking, close-on-exec. The path may be
/// longer than the 107 bytes that an address holds.
///
/// # Errors
/// `ENOENT` when the folder does not exist.
pub fn listen(path: &Path, backlog: i32) -> Result<OwnedFd> {
    let object = || path.display().to_string();
    let (folder, address) = address(path)?;
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(Error::new("unlink", object(), e)),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|e| Error::new("socket", object(), e))?;
    // The mode of the socket's inode, without the umask's help.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))
        .map_err(|e| Error::new("fchmod", object(), e))?;
    rustix::net::bind(&socket, &address).map_err(|e| Error::new("bind", object(), e))?;
    rustix::net::listen(&socket, backlog).map_err(|e| Error::new("listen", object(), e))?;
    drop(folder);
    Ok(socket)
}

/// Connects to a listener at `path`. Blocking, close-on-exec.
///
/// # Errors
/// `ENOENT` or `ECONNREFUSED` when nobody listens there.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    connect_as(path, SocketFlags::CLOEXEC)
}

/// Connects to a listener at `path` without waiting for it. Non-blocking, close-on-exec.
///
/// # Errors
/// `ENOENT` or `ECONNREFUSED` when nobody listens there, `EAGAIN` when its backlog is full.
pub fn connect_at_once(path: &Path) -> Result<OwnedFd> {
    connect_as(path, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

fn connect_as(path: &Path, flags: SocketFlags) -> Result<OwnedFd> {
    let object = || path.display().to_string();
    let (folder, address) = address(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|e| Error::new("socket", object(), e))?;
    rustix::net::connect(&socket, &address).map_err(|e| Error::new("connect", object(), e))?;
    drop(folder);
    Ok(socket)
}

/// An address by way of the folder's descriptor, which must live until the address was used.
fn address(path: &Path) -> Result<(File, SocketAddrUnix)> {
    let object = || path.display().to_string();
    let invalid = || {
        Error::new(
            "socket",
            object(),
            std::io::Error::from_raw_os_error(libc::EINVAL),
        )
    };
    let (folder, name) = path.parent().zip(path.file_name()).ok_or_else(invalid)?;
    let folder = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(folder)
        .map_err(|e| Error::new("open", folder.display().to_string(), e))?;
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name);
    let address = SocketAddrUnix::new(short).map_err(|e| Error::new("socket", object(), e))?;
    Ok((folder, address))
}

/// Takes the next connection of a non-blocking listener, if there is one. The connection is non-blocking.
///
/// # Errors
/// `EMFILE` and the like.
pub fn accept(listener: impl AsFd) -> Result<Option<OwnedFd>> {
    match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(e) => Err(Error::new("accept4", "", e)),
    }
}

/// Sends one packet with `fds`, whole or not at all; `false`: not now. A missing peer is an error, not a signal.
///
/// # Errors
/// `EPIPE` when the other end is closed, `EMSGSIZE` when the packet exceeds the socket's buffer.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<bool> {
    let mut space = vec![MaybeUninit::uninit(); rights_space(fds.len())];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::new(
            "sendmsg",
            "",
            std::io::Error::from_raw_os_error(libc::E2BIG),
        ));
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    });
    match sent {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(e) => Err(Error::new(
            "sendmsg",
            format!("{} bytes, {} descriptors", bytes.len(), fds.len()),
            e,
        )),
    }
}

/// Receives one packet into `buffer`, with at most `fds_max` descriptors.
///
/// # Errors
/// `EMSGSIZE` when the packet or its descriptors were more than that (they are dropped).
pub fn receive(socket: impl AsFd, buffer: &mut [u8], fds_max: usize) -> Result<Packet> {
    let mut space = vec![MaybeUninit::uninit(); rights_space(fds_max)];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut take = || {
        rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(
                &socket,
                &mut [IoSliceMut::new(buffer)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        })
    };
    // A peer that left with a packet unread: the kernel says so once, and before it gives what the peer had sent.
    let got = match take() {
        Err(Errno::CONNRESET) => take(),
        got => got,
    };
    let got = match got {
        Ok(got) => got,
        Err(Errno::AGAIN) => return Ok(Packet::Blocked),
        Err(Errno::CONNRESET) => return Ok(Packet::Closed),
        Err(e) => return Err(Error::new("recvmsg", "", e)),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Error::new(
            "recvmsg",
            "",
            std::io::Error::from_raw_os_error(libc::EMSGSIZE),
        ));
    }
    // A sequenced-packet socket shows its end as an empty packet; we send none.
    if got.bytes == 0 {
        Ok(Packet::Closed)
    } else {
        Ok(Packet::Data(got.bytes, fds))
    }
}

fn rights_space(fds: usize) -> usize {
    if fds == 0 {
        0
    } else {
        rustix::cmsg_space!(ScmRights(1)) + fds * size_of::<i32>()
    }
}

/// Takes over the descriptor `number` that whoever started this process left for it, and makes it close-on-exec.
/// To be called once a number, before anything else of the process could own it.
///
/// # Errors
/// `EBADF` when it is not open, `ENOTSOCK` when it is no socket.
pub fn inherited(number: i32) -> Result<OwnedFd> {
    let failed = |call| move |e: Errno| Error::new(call, format!("descriptor {number}"), e);
    // SAFETY: borrowed for two calls that fail harmlessly when it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).map_err(failed("fcntl(F_SETFD)"))?;
    rustix::net::sockopt::socket_type(borrowed).map_err(failed("getsockopt(SO_TYPE)"))?;
    // SAFETY: open, and by the contract of this function nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_carries_descriptors() {
        let (a, b) = pair().unwrap();
        let pipe = crate::pipe::pipe().unwrap();
        assert!(send(&a, b"hello", &[pipe.write.as_fd()]).unwrap());
        let mut buffer = [0; 16];
        let Packet::Data(5, fds) = receive(&b, &mut buffer, 4).unwrap() else {
            panic!("no packet")
        };
        assert_eq!(fds.len(), 1);
        crate::pipe::write(&fds[0], b"x").unwrap();
        assert_eq!(
            crate::pipe::read(&pipe.read, &mut buffer).unwrap(),
            crate::pipe::Progress::Bytes(1)
        );
        drop(a);
        assert!(matches!(receive(&b, &mut buffer, 4).unwrap(), Packet::Closed));
    }

    /// The kernel tells of the reset before it gives what was sent earlier (unix(7), `unix_release_sock`).
    #[test]
    fn a_peer_that_left_a_packet_unread_does_not_take_back_what_it_said() {
        let (a, b) = pair().unwrap();
        assert!(send(&a, b"never read", &[]).unwrap());
        assert!(send(&b, b"last words", &[]).unwrap());
        drop(b);
        let mut buffer = [0; 16];
        assert!(matches!(
            receive(&a, &mut buffer, 0).unwrap(),
            Packet::Data(10, _)
        ));
        assert_eq!(&buffer[..10], b"last words");
        assert!(matches!(receive(&a, &mut buffer, 0).unwrap(), Packet::Closed));
    }

    #[test]
    fn a_full_backlog_is_told_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = listen(&path, 1).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match connect_at_once(&path) {
                Ok(socket) => waiting.push(socket),
                Err(error) => break error,
            }
            assert!(waiting.len() < 10);
        };
        assert!(error.is(libc::EAGAIN), "{error}");
    }

    #[test]
    fn a_long_path_can_be_listened_at() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("shim.sock");
        let listener = listen(&path, 4).unwrap();
        let client = connect(&path).unwrap();
        let server = accept(&listener).unwrap().unwrap();
        send(&client, b"hi", &[]).unwrap();
        assert!(matches!(
            receive(&server, &mut [0; 8], 0).unwrap(),
            Packet::Data(2, _)
        ));
        drop(server);
        assert_eq!(
            std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap()) & 0o777,
            0o600
        );
    }
}
