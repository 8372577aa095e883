//! What the shim knows about its container.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use criquet_proto::shim::{self, Exit, Plan, failed::Kind, state};

use crate::attach::Attacher;
use crate::cgroup::Cgroup;
use crate::child::{Child, Failure};
use crate::log::Log;
use crate::oom::Counter;
use crate::stdio::input::Input;
use crate::stdio::output::Output;

/// The container, from Create on.
#[derive(Debug)]
pub struct Container {
    /// As Create brought it; an exec needs parts of it.
    pub plan: Plan,
    /// Where the socket and the exit record are.
    pub state_dir: PathBuf,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Counts the kernel's kills.
    pub oom: Counter,
    /// Its first process.
    pub init: Child,
    /// Its stdin.
    pub input: Input,
    /// Its stdout and stderr, by [`crate::stdio::Stream::index`].
    pub outputs: [Output; 2],
    /// Its log.
    pub log: Log,
    /// Clients on its stdio, by their connection.
    pub attachers: BTreeMap<u32, Attacher>,
    /// Further processes, by pid.
    pub execs: BTreeMap<i32, Exec>,
    /// How far it is.
    pub phase: Phase,
    /// When execve succeeded; 0 before.
    pub started_at_ns: i64,
    /// Why the program could not be started.
    pub failure: Option<Failure>,
}

/// One more process of the container.
#[derive(Debug)]
pub struct Exec {
    /// The process.
    pub child: Child,
    /// For resizing, while somebody is connected who could ask for it.
    pub terminal: Option<OwnedFd>,
    /// Who waits for its end.
    pub connection: Option<u32>,
    /// When execve succeeded.
    pub started_at_ns: i64,
}

/// How far a container is.
#[derive(Debug)]
pub enum Phase {
    /// Init waits.
    Created,
    /// Start was asked for.
    Running,
    /// Init is gone.
    Ending(Ending),
}

/// What is still to be done after init's end.
#[derive(Debug)]
pub struct Ending {
    /// How it ended.
    pub exit: Exit,
    /// The step at hand.
    pub step: Step,
    /// When the step is given up.
    pub until: Instant,
    /// When the step looks again.
    pub again: Option<Instant>,
}

/// The steps of an [`Ending`], in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Whatever is left in the cgroup is killed.
    Kill,
    /// The rest of the output is read and logged.
    Drain,
    /// The exit record is on disk; the cgroup is removed.
    Remove,
    /// Whoever waits is told; attachers take the rest.
    Farewell,
    /// The shim ends.
    Done,
}

impl Container {
    /// Whether the container can take requests that need a living init.
    ///
    /// # Errors
    /// `STATE` when it has ended.
    pub fn alive(&mut self) -> Result<&mut Self, Failure> {
        if matches!(self.phase, Phase::Ending(_)) || self.failure.is_some() {
            return Err(out_of_state("the container has ended"));
        }
        Ok(self)
    }

    /// The exit, once it is on disk.
    #[must_use]
    pub fn recorded_exit(&self) -> Option<&Exit> {
        match &self.phase {
            Phase::Ending(ending) if ending.step > Step::Drain => Some(&ending.exit),
            _ => None,
        }
    }

    /// The answer to Inspect.
    #[must_use]
    pub fn describe(&self) -> shim::State {
        let exit = self.recorded_exit().cloned();
        let phase = match (&self.phase, &exit) {
            (_, Some(_)) => state::Phase::Exited,
            (Phase::Created, None) => state::Phase::Created,
            _ => state::Phase::Running,
        };
        shim::State {
            phase: phase.into(),
            pid: self.init.pid,
            started_at_ns: self.started_at_ns,
            exit,
        }
    }
}

/// A request that contradicts the state.
#[must_use]
pub fn out_of_state(message: &str) -> Failure {
    Failure {
        kind: Kind::State,
        message: message.into(),
    }
}

/// A request that makes no sense.
#[must_use]
pub fn invalid(message: impl Into<String>) -> Failure {
    Failure {
        kind: Kind::Invalid,
        message: message.into(),
    }
}
