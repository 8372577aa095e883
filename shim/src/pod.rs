//! `criquet-shim pod`: the first process of a pid namespace that the containers of a pod share. It holds the
//! namespace, takes orphans, and owns nothing: an empty root, no rights, no descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use criquet_proto::shim::{Created, FIRST_CONNECTION_FD, MESSAGE_BYTES_MAX, PodInit, Reply, failed, reply};
use criquet_sys::mount::{self, Attributes, Propagation};
use criquet_sys::namespace::{self, Kind};
use criquet_sys::pipe::{self, Progress};
use criquet_sys::process::{self, Fork, Forked};
use criquet_sys::socket::{self, Packet};
use criquet_sys::{capability, identity, pidfd, session, signal};
use prost::Message;

use crate::cgroup::Cgroup;
use crate::child::Failure;
use crate::complain;
use crate::serve;
use crate::state::invalid;

/// "nobody": an id that owns nothing.
const NOBODY: u32 = 65534;
/// The last one of its pod that the kernel should kill, as kubelet has it for a pod's own process.
const OOM_SCORE: i32 = -998;

/// Reads a [`PodInit`] from descriptor 3, makes the process, answers, and returns.
///
/// # Errors
/// What was answered as Failed.
pub fn run() -> Result<(), Failure> {
    let socket = socket::inherited(FIRST_CONNECTION_FD)?;
    session::close_from(FIRST_CONNECTION_FD.unsigned_abs() + 1)?;
    session::set_name(c"criquet-pod")?;
    let (kind, pidfd) = match make(&socket) {
        Ok((pid, pidfd)) => (reply::Kind::Created(Created { pid }), Some(pidfd)),
        Err(failure) => (serve::failed(&failure), None),
    };
    let fds: Vec<_> = pidfd.iter().map(AsFd::as_fd).collect();
    let told = socket::send(&socket, &Reply { kind: Some(kind) }.encode_to_vec(), &fds);
    if told.is_err() {
        // Nobody knows of it, so nobody would ever end it.
        pidfd.map(|pidfd| pidfd::signal(&pidfd, signal::SIGKILL));
    }
    told?;
    Ok(())
}

fn make(socket: &OwnedFd) -> Result<(i32, OwnedFd), Failure> {
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let (size, fds) = match socket::receive(socket, &mut buffer, 1)? {
        Packet::Data(size, fds) => (size, fds),
        // A message in which nothing is asked for has no bytes. Whether the peer is really gone, the answer shows.
        Packet::Closed | Packet::Blocked => (0, Vec::new()),
    };
    let wanted =
        PodInit::decode(&buffer[..size]).map_err(|e| invalid(format!("decode the pod's init: {e}")))?;
    if let Some(plan) = &wanted.cgroup {
        // Its child is born where it is itself; it leaves the cgroup by ending.
        Cgroup::make(plan)?.adopt(std::process::id().cast_signed())?;
    }
    process::set_oom_score(std::process::id().cast_signed(), OOM_SCORE)?;
    signal::block_all()?;
    if wanted.user {
        let user = fds
            .first()
            .ok_or_else(|| invalid("the user namespace's descriptor is missing"))?;
        namespace::join(user, Kind::User)?;
    }
    let ready = pipe::pipe()?;
    match process::fork(&Fork {
        namespaces: &[Kind::Pid, Kind::Mount],
        ..Fork::default()
    })? {
        Forked::Child => {
            let code = match live(ready.write.as_fd()) {
                Ok(()) => 0,
                Err(failure) => {
                    complain(&failure.message);
                    1
                }
            };
            process::exit(code)
        }
        Forked::Parent { pid, pidfd } => {
            drop(ready.write);
            match pipe::read(&ready.read, &mut [0])? {
                Progress::Bytes(_) => Ok((pid, pidfd)),
                _ => {
                    let message =
                        "the pod's init ended before it was ready; its words are in the journal".into();
                    Err(Failure {
                        kind: failed::Kind::Internal,
                        message,
                    })
                }
            }
        }
    }
}

/// The child, as process 1.
fn live(ready: BorrowedFd<'_>) -> Result<(), Failure> {
    leave_the_host()?;
    let null = pipe::pipe()?;
    // Three ends of a pipe that nobody uses: the empty root has no /dev/null.
    process::set_stdio([null.read.as_fd(), null.write.as_fd(), null.write.as_fd()])?;
    process::close_all_but(&[ready])?;
    // Closed above, by number.
    std::mem::forget(null);
    // Not earlier: containers may come from now on.
    pipe::write(ready, b"r")?;
    process::close_all_but(&[])?;
    loop {
        match signal::wait(&[signal::SIGCHLD, signal::SIGTERM, signal::SIGINT])? {
            signal::SIGCHLD => while pidfd::reap_any()?.is_some() {},
            _ => return Ok(()),
        }
    }
}

/// A container with the right to trace could reach through process 1 what process 1 has: so it has nothing.
fn leave_the_host() -> Result<(), Failure> {
    mount::set_namespace_propagation(Propagation::Private)?;
    let options = [
        ("size", Some("4k")),
        ("nr_inodes", Some("1")),
        ("mode", Some("0555")),
    ];
    let root = mount::new(
        "tmpfs",
        &options,
        Attributes {
            readonly: true,
            ..Attributes::DATA
        },
    )?;
    // Any place that every host has.
    mount::attach_path(&root, Path::new("/proc"))?;
    mount::pivot(&root)?;
    capability::drop_bounding(0)?;
    // An id that the user namespace may not know; its root is then as good.
    if identity::take(NOBODY, NOBODY, &[]).is_err() {
        identity::take(0, 0, &[])?;
    }
    capability::set(0, 0, 0)?;
    process::forbid_tracing()?;
    Ok(())
}
