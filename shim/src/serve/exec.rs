//! Exec: one more process in the container.

use std::os::fd::{AsFd, OwnedFd};

use criquet_proto::shim::{self, PLAN_BYTES_MAX, Process, Started, reply};
use criquet_sys::pidfd::Ended;
use criquet_sys::{memfd, pidfd, pipe, signal};
use prost::Message;

use super::Server;
use super::connection::Pending;
use super::request::{Answer, named};
use crate::child::{self, Failure, Stdio};
use crate::exit;
use crate::log::time::now_ns;
use crate::state::{Container, Exec, Phase, invalid, out_of_state};
use crate::stdio;

impl Server {
    pub(super) fn exec(&mut self, id: u32, request: &shim::Exec, mut fds: Vec<OwnedFd>) -> Answer {
        let container = self.container()?.alive()?;
        if !matches!(container.phase, Phase::Running) {
            return Err(out_of_state("exec: the container is not running"));
        }
        if fds.is_empty() {
            return Err(invalid("exec: the process's descriptor is missing"));
        }
        let bytes = memfd::read_all(fds.remove(0), PLAN_BYTES_MAX)?;
        let process = Process::decode(&*bytes).map_err(|e| invalid(format!("decode the process: {e}")))?;
        let stdio = streams(&process, request, fds)?;
        let (init, plan) = (&container.init, &container.plan);
        let mut child = child::exec(&process, init.pidfd.as_fd(), init.pid, plan, stdio)?;
        // A copy for Resize; the master itself goes to the client.
        let master = child.terminal.take();
        let copy = master.as_ref().map(OwnedFd::try_clone).transpose();
        let terminal = copy.map_err(|e| criquet_sys::Error::new("dup", "terminal", e))?;
        child.release()?;
        let (pid, started_at_ns) = (child.pid, now_ns());
        container.execs.insert(
            pid,
            Exec {
                child,
                terminal,
                connection: Some(id),
                started_at_ns,
            },
        );
        self.set_pending(id, Pending::Exec(pid));
        let started = Started {
            pid,
            started_at_ns,
            terminal: master.is_some(),
        };
        Ok(Some((reply::Kind::Started(started), master)))
    }

    /// An exec's process is gone.
    pub(super) fn end_exec(&mut self, pid: i32, ended: Ended) {
        let Some(exec) = self.container.as_mut().and_then(|c| c.execs.remove(&pid)) else {
            return;
        };
        if let Some(id) = exec.connection {
            self.set_pending(id, Pending::Ended);
            self.reply(
                id,
                reply::Kind::Exit(exit::of(ended, exec.started_at_ns, now_ns())),
                None,
            );
        }
    }
}

fn streams(process: &Process, request: &shim::Exec, fds: Vec<OwnedFd>) -> Result<Stdio, Failure> {
    let given = named(fds, [request.stdin, request.stdout, request.stderr])?;
    if process.terminal {
        if given.iter().any(Option::is_some) {
            return Err(invalid("exec: streams were given although there is a terminal"));
        }
        return stdio::null();
    }
    let [stdin, stdout, stderr] = given;
    let or_null = |fd: Option<OwnedFd>| fd.map_or_else(pipe::null, Ok);
    Ok(Stdio {
        stdin: or_null(stdin)?,
        stdout: or_null(stdout)?,
        stderr: or_null(stderr)?,
    })
}

impl Container {
    /// To init, or to every process of the cgroup.
    pub(super) fn signal(&mut self, number: i32, all: bool) -> Result<(), Failure> {
        self.alive()?;
        if !all {
            return pidfd::signal(&self.init.pidfd, number).map_err(gone);
        }
        if number == signal::SIGKILL {
            self.cgroup.kill();
            return Ok(());
        }
        for pid in self.cgroup.processes() {
            signal::kill(pid, number).ok();
        }
        Ok(())
    }

    /// To an exec's process, or to all that it started: its process group and its session.
    pub(super) fn signal_exec(&mut self, pid: i32, number: i32, all: bool) -> Result<(), Failure> {
        let exec = self
            .execs
            .get(&pid)
            .ok_or_else(|| out_of_state("the process has ended"))?;
        let told = pidfd::signal(&exec.child.pidfd, number).map_err(gone);
        if !all {
            return told;
        }
        // The leader first, else it would start the next child; then again, for those that a child started meanwhile.
        let rounds = if number == signal::SIGKILL { KILL_ROUNDS } else { 1 };
        for _ in 0..rounds {
            let session = |other: &i32| *other != pid && signal::session_of(*other) == Some(pid);
            let others: Vec<i32> = self.cgroup.processes().into_iter().filter(session).collect();
            for other in &others {
                signal::kill(*other, number).ok();
            }
            if others.is_empty() {
                break;
            }
        }
        told
    }
}

fn gone(error: criquet_sys::Error) -> Failure {
    if error.errno() == Some(ESRCH) {
        out_of_state("the process has ended")
    } else {
        error.into()
    }
}

/// How often the processes of a killed exec are listed: each time finds those that were forked since the last,
/// and a killed one until it is a zombie.
const KILL_ROUNDS: usize = 16;

/// "No such process", errno-base.h.
const ESRCH: i32 = 3;
