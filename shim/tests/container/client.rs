//! The daemon's side of the protocol, as small as can be.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use criquet_proto::shim::{
    Create, Exit, FDS_MAX, FIRST_CONNECTION_FD, Failed, Hello, MESSAGE_BYTES_MAX, Plan, Process, Reply,
    Request, SOCKET_NAME, Signal, Start, VERSION, Wait, reply, request,
};
use criquet_sys::process::Spawned;
use criquet_sys::socket::{self, Packet};
use criquet_sys::{memfd, pidfd, pipe, process};
use prost::Message;

/// Nothing here takes longer on a healthy host, however busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to a shim.
pub(crate) struct Client {
    socket: OwnedFd,
}

impl Client {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        pipe::set_nonblocking(&socket).unwrap();
        let client = Self { socket };
        let (welcome, _) = client.call(request::Kind::Hello(Hello { version: VERSION }), &[]);
        assert!(matches!(welcome, reply::Kind::Welcome(w) if w.version == VERSION && w.pid > 0));
        client
    }

    pub(crate) fn connect(state_dir: &Path) -> Self {
        Self::new(socket::connect(&state_dir.join(SOCKET_NAME)).unwrap())
    }

    pub(crate) fn send(&self, kind: request::Kind, fds: &[BorrowedFd<'_>]) {
        assert!(socket::send(&self.socket, &Request { kind: Some(kind) }.encode_to_vec(), fds).unwrap());
    }

    /// The next reply within `patience`, if one comes.
    pub(crate) fn poll(&self, patience: Duration) -> Option<(reply::Kind, Vec<OwnedFd>)> {
        self.try_receive(patience)
            .map(|reply| reply.expect("the shim has closed the connection"))
    }

    /// The next reply within `patience`, or the end of the connection.
    fn try_receive(&self, patience: Duration) -> Option<Option<(reply::Kind, Vec<OwnedFd>)>> {
        let until = Instant::now() + patience;
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        loop {
            match socket::receive(&self.socket, &mut buffer, FDS_MAX).unwrap() {
                Packet::Data(size, fds) => {
                    return Some(Some((Reply::decode(&buffer[..size]).unwrap().kind.unwrap(), fds)));
                }
                Packet::Blocked if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
                Packet::Blocked => return None,
                Packet::Closed => return Some(None),
            }
        }
    }

    pub(crate) fn receive(&self) -> (reply::Kind, Vec<OwnedFd>) {
        self.poll(PATIENCE).expect("an answer in time")
    }

    pub(crate) fn call(&self, kind: request::Kind, fds: &[BorrowedFd<'_>]) -> (reply::Kind, Vec<OwnedFd>) {
        self.send(kind, fds);
        self.receive()
    }

    pub(crate) fn create(&self, plan: &Plan) -> reply::Kind {
        let memfd = memfd::sealed("plan", &plan.encode_to_vec()).unwrap();
        self.create_with(&[memfd.as_fd()])
    }

    /// Create with descriptors for the plan to name.
    pub(crate) fn create_with(&self, fds: &[BorrowedFd<'_>]) -> reply::Kind {
        self.call(request::Kind::Create(Create {}), fds).0
    }

    pub(crate) fn start(&self) -> reply::Kind {
        self.call(request::Kind::Start(Start {}), &[]).0
    }

    pub(crate) fn signal(&self, signal: i32, all: bool) -> reply::Kind {
        self.call(request::Kind::Signal(Signal { signal, all }), &[]).0
    }

    /// The exit; none when the shim has ended before it was asked: then it is on disk.
    pub(crate) fn wait(&self) -> Option<Exit> {
        let wait = Request {
            kind: Some(request::Kind::Wait(Wait {})),
        }
        .encode_to_vec();
        socket::send(&self.socket, &wait, &[]).ok()?;
        self.try_receive(PATIENCE)
            .expect("an answer in time")
            .map(|(reply, _)| exit_of(reply))
    }

    /// Asks for one more process with these streams.
    pub(crate) fn exec(
        &self,
        process: &Process,
        streams: [Option<BorrowedFd<'_>>; 3],
    ) -> (reply::Kind, Vec<OwnedFd>) {
        let memfd = memfd::sealed("process", &process.encode_to_vec()).unwrap();
        let exec = criquet_proto::shim::Exec {
            stdin: streams[0].is_some(),
            stdout: streams[1].is_some(),
            stderr: streams[2].is_some(),
        };
        let mut fds = vec![memfd.as_fd()];
        fds.extend(streams.into_iter().flatten());
        self.call(request::Kind::Exec(exec), &fds)
    }
}

#[track_caller]
pub(crate) fn exit_of(reply: reply::Kind) -> Exit {
    match reply {
        reply::Kind::Exit(exit) => exit,
        other => panic!("instead of an exit: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn failure_of(reply: reply::Kind) -> Failed {
    match reply {
        reply::Kind::Failed(failed) => failed,
        other => panic!("instead of a failure: {other:?}"),
    }
}

/// A running shim; it is killed when the test is over.
pub(crate) struct Shim {
    spawned: Spawned,
    reaped: bool,
}

impl Shim {
    pub(crate) fn spawn(role: &str) -> (Self, OwnedFd) {
        // The shim as it is shipped can be tried too.
        let path = std::env::var("CRIQUET_TEST_SHIM").unwrap_or(env!("CARGO_BIN_EXE_criquet-shim").into());
        let program = memfd::sealed_executable("shim", &std::fs::read(path).unwrap());
        let (ours, theirs) = socket::pair().unwrap();
        let stderr = std::io::stderr();
        let fds = [(theirs.as_fd(), FIRST_CONNECTION_FD), (stderr.as_fd(), 2)];
        let spawned =
            process::spawn_from_memfd(program.unwrap().as_fd(), &["criquet-shim", role], &fds).unwrap();
        (
            Self {
                spawned,
                reaped: false,
            },
            ours,
        )
    }

    pub(crate) fn pid(&self) -> i32 {
        self.spawned.pid
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> pidfd::Ended {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))
                .unwrap()
                .contains(") Z ")
            {
                self.reaped = true;
                return process::reap(&self.spawned.pidfd).unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the shim does not end");
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if !self.reaped {
            pidfd::signal(&self.spawned.pidfd, criquet_sys::signal::SIGKILL).ok();
            process::reap(&self.spawned.pidfd).ok();
        }
    }
}
