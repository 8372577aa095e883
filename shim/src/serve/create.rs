//! Create: from a plan to an init that waits.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use criquet_proto::shim::{Created, PLAN_BYTES_MAX, Plan, SOCKET_NAME, VERSION, reply};
use criquet_sys::epoll::Interest;
use criquet_sys::{memfd, socket};
use prost::Message;

use super::request::{Answer, now};
use super::{Server, Token};
use crate::cgroup::Cgroup;
use crate::child::{self, Failure};
use crate::limits::LISTEN_BACKLOG;
use crate::log::Log;
use crate::oom::Counter;
use crate::state::{Container, Phase, invalid, out_of_state};
use crate::stdio::input::Input;
use crate::stdio::output::Output;
use crate::stdio::{self, Ends, Stream};

impl Server {
    /// After a failure nothing is left, and the shim ends: another try takes another shim.
    pub(super) fn create(&mut self, fds: &[OwnedFd]) -> Answer {
        if self.container.is_some() {
            return Err(out_of_state("the container has been created before"));
        }
        let made = read_plan(fds).and_then(|plan| self.make(plan, fds));
        match made {
            Ok(container) => {
                let pid = container.init.pid;
                self.container = Some(container);
                now(reply::Kind::Created(Created { pid }))
            }
            Err(failure) => {
                self.quit = true;
                Err(failure)
            }
        }
    }

    fn make(&mut self, plan: Plan, fds: &[OwnedFd]) -> Result<Container, Failure> {
        let state_dir = PathBuf::from(&plan.state_dir);
        let log = Log::open(&plan.log.clone().unwrap_or_default())?;
        let mut cgroup = Cgroup::make(&plan.cgroup.clone().unwrap_or_default())?;
        let path = state_dir.join(SOCKET_NAME);
        let listener = socket::listen(&path, LISTEN_BACKLOG).map_err(Failure::from);
        let made = listener.and_then(|listener| {
            self.epoll
                .add(&listener, Token::Listener.encode(), Interest::Read)?;
            self.listener = Some(listener);
            init(&plan, fds)
        });
        let (init, ends) = made.inspect_err(|_| {
            // The process of a failed start is gone, but its cgroup may need a moment to see that.
            cgroup.remove_patiently();
            std::fs::remove_file(&path).ok();
        })?;
        let terminal = init.terminal.is_some();
        let [stdout, stderr] = ends.outputs;
        Ok(Container {
            oom: Counter::new(&cgroup),
            input: Input::new(ends.stdin, terminal),
            outputs: [
                Output::new(Stream::Stdout, stdout),
                Output::new(Stream::Stderr, stderr),
            ],
            attachers: Default::default(),
            execs: Default::default(),
            phase: Phase::Created,
            started_at_ns: 0,
            failure: None,
            plan,
            state_dir,
            cgroup,
            init,
            log,
        })
    }
}

fn init(plan: &Plan, fds: &[OwnedFd]) -> Result<(child::Child, Ends), Failure> {
    let (stdio, ends) = stdio::of_container(plan)?;
    let init = child::create(plan, fds, stdio)?;
    // The container keeps the master too: closing it would hang the terminal up.
    match &init.terminal {
        Some(master) => {
            let copy = master
                .try_clone()
                .map_err(|e| criquet_sys::Error::new("dup", "terminal", e))?;
            let ends = Ends::of_terminal(copy, plan.stdin)?;
            Ok((init, ends))
        }
        None => Ok((init, ends)),
    }
}

fn read_plan(fds: &[OwnedFd]) -> Result<Plan, Failure> {
    let memfd = fds
        .first()
        .ok_or_else(|| invalid("create: the plan's descriptor is missing"))?;
    let bytes = memfd::read_all(memfd, PLAN_BYTES_MAX)?;
    let plan = Plan::decode(&*bytes).map_err(|e| invalid(format!("decode the plan: {e}")))?;
    if plan.version != VERSION {
        return Err(invalid(format!(
            "the plan has version {}, this shim speaks {VERSION}",
            plan.version
        )));
    }
    if !plan.state_dir.starts_with('/') {
        return Err(invalid(format!(
            "the state directory {:?} is not absolute",
            plan.state_dir
        )));
    }
    if plan.process.is_none() {
        return Err(invalid("the plan has no process"));
    }
    Ok(plan)
}
