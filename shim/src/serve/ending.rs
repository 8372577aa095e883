//! After init: what is left is killed, the output read to its end, the exit written down and then told.

use std::time::{Duration, Instant};

use criquet_proto::shim::{Exit, reply};
use criquet_sys::pidfd::Ended;
use criquet_sys::signal;

use super::connection::Pending;
use super::{Server, unwatch};
use crate::limits::{
    CGROUP_REMOVE_POLL, CGROUP_REMOVE_WAIT, DRAIN_WAIT, FAREWELL_WAIT, KILL_POLL, KILL_WAIT,
};
use crate::log::time::now_ns;
use crate::state::{Container, Ending, Phase, Step};
use crate::{complain, exit, reap};

impl Server {
    /// Some child has ended.
    pub(super) fn reap(&mut self) {
        for (pid, ended) in reap::ended(&self.signals) {
            match &mut self.container {
                Some(container) if container.init.pid == pid => container.end(ended),
                _ => self.end_exec(pid, ended),
            }
        }
    }

    /// Goes on with the end of the container as far as that is possible now.
    pub(super) fn advance_ending(&mut self) {
        loop {
            let Some(container) = &mut self.container else {
                return;
            };
            let Phase::Ending(ending) = &container.phase else {
                return;
            };
            let (step, late) = (ending.step, Instant::now() >= ending.until);
            let (done, poll) = match step {
                Step::Kill => (
                    !container.cgroup.kill() && container.execs.is_empty(),
                    Some(KILL_POLL),
                ),
                Step::Drain => (container.outputs.iter().all(|output| output.fd().is_none()), None),
                Step::Remove => (container.cgroup.remove(), Some(CGROUP_REMOVE_POLL)),
                Step::Farewell => (self.say_farewell(late), None),
                Step::Done => return,
            };
            let Some(container) = &mut self.container else {
                return;
            };
            if !done && !late {
                if let Phase::Ending(ending) = &mut container.phase {
                    ending.again = poll.map(|poll| Instant::now() + poll);
                }
                return;
            }
            if !done {
                complain(&format!(
                    "container {}: gave up at step {step:?} of its end",
                    container.plan.container_id
                ));
            }
            self.leave(step);
        }
    }

    fn leave(&mut self, step: Step) {
        match step {
            Step::Kill => self.enter(Step::Drain, DRAIN_WAIT),
            Step::Drain => {
                for index in 0..2 {
                    self.close_output(index);
                }
                if let Some(container) = &mut self.container {
                    container.record();
                }
                self.enter(Step::Remove, CGROUP_REMOVE_WAIT);
            }
            Step::Remove => {
                self.tell();
                self.enter(Step::Farewell, FAREWELL_WAIT);
            }
            Step::Farewell | Step::Done => self.enter(Step::Done, Duration::ZERO),
        }
    }

    fn enter(&mut self, step: Step, limit: Duration) {
        if let Some(Container {
            phase: Phase::Ending(ending),
            ..
        }) = &mut self.container
        {
            ending.step = step;
            ending.until = Instant::now() + limit;
            ending.again = None;
        }
    }

    /// Tells those who wait for nothing else than the exit, and those whose exec could not be reaped.
    fn tell(&mut self) {
        let Some(container) = &mut self.container else {
            return;
        };
        let stuck = std::mem::take(&mut container.execs);
        let Some(exit) = container.recorded_exit().cloned() else {
            return;
        };
        let waiting: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, c)| c.pending == Pending::Wait)
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.set_pending(id, Pending::Nothing);
            self.reply(id, reply::Kind::Exit(exit.clone()), None);
        }
        for exec in stuck.into_values() {
            let Some(id) = exec.connection else { continue };
            let exit = exit::of(Ended::Killed(signal::SIGKILL), exec.started_at_ns, now_ns());
            self.set_pending(id, Pending::Nothing);
            self.reply(id, reply::Kind::Exit(exit), None);
        }
    }

    /// Tells attachers, once they have all output; gives whether nobody is left to be told.
    fn say_farewell(&mut self, late: bool) -> bool {
        let Some(container) = &self.container else {
            return true;
        };
        let Some(exit) = container.recorded_exit().cloned() else {
            return true;
        };
        let ready: Vec<u32> = container
            .attachers
            .iter()
            .filter(|(_, attacher)| late || attacher.deadline().is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            self.detach(id);
            self.set_pending(id, Pending::Nothing);
            self.reply(id, reply::Kind::Exit(exit.clone()), None);
        }
        self.container.as_ref().is_none_or(|c| c.attachers.is_empty())
            && self.connections.values().all(|c| !c.is_behind())
    }

    /// Closes what an attacher gave.
    pub(super) fn detach(&mut self, id: u32) {
        let Some(attacher) = self.container.as_mut().and_then(|c| c.attachers.remove(&id)) else {
            return;
        };
        if let Some(stdin) = attacher.stdin.filter(|_| attacher.stdin_watched) {
            unwatch(&self.epoll, stdin);
        }
        for sink in attacher.sinks.into_iter().flatten().filter(|sink| sink.watched) {
            unwatch(&self.epoll, sink.fd());
        }
    }
}

impl Container {
    /// Init is gone.
    fn end(&mut self, ended: Ended) {
        let mut exit = exit::of(ended, self.started_at_ns, now_ns());
        if let Some(failure) = &self.failure {
            exit = Exit {
                code: exit::code_of_failure(failure),
                message: failure.message.clone(),
                finished_at_ns: exit.finished_at_ns,
                ..Exit::default()
            };
        } else {
            exit.oom_killed = self.oom.explains(&exit);
        }
        let until = Instant::now() + KILL_WAIT;
        self.phase = Phase::Ending(Ending {
            exit,
            step: Step::Kill,
            until,
            again: None,
        });
    }

    fn record(&mut self) {
        let Phase::Ending(ending) = &self.phase else {
            return;
        };
        if let Err(error) = exit::record(&self.state_dir, &ending.exit) {
            complain(&format!(
                "write the exit record of container {}: {error}",
                self.plan.container_id
            ));
        }
    }
}
