//! StartContainer: releases the waiting init; and the watch over a container until its end is recorded.

use std::sync::Arc;
use std::time::Duration;

use criquet_proto::shim::{self, reply, request};

use super::record::{Container, EXIT_CODE_UNKNOWN, Ended, Phase, State};
use crate::event::Kind as EventKind;
use crate::fault::{Fault, Result};
use crate::id;
use crate::runtime::Runtime;
use crate::sandbox::record::Phase as SandboxPhase;
use crate::store::Table;
use crate::supervise::{self, link, link::Link};

/// execve of the user's program: it reads the program from a disk that may be slow.
const START_DEADLINE: Duration = Duration::from_secs(60);

impl Runtime {
    /// Lets a created container run.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` when it is not in the state Created or its pod is stopped, and what
    /// execve said: then the container has exited, with that as its message.
    pub async fn start_container(self: &Arc<Self>, name: &str) -> Result<()> {
        let container = self.containers.get(name)?;
        let runtime = Arc::clone(self);
        let work = async move {
            let _turn = container.turn.lock().await;
            runtime.release(&container).await
        };
        tokio::spawn(work)
            .await
            .map_err(|error| Fault::internal(format!("starting a container: {error}")))?
    }

    async fn release(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let id = id::short(&container.id);
        match container.state() {
            State::Created => {}
            State::Running { .. } => {
                return Err(Fault::failed_precondition(format!(
                    "container {id:?} runs already"
                )));
            }
            State::Exited(_) => {
                return Err(Fault::failed_precondition(format!(
                    "container {id:?} has exited; create another one"
                )));
            }
        }
        if container.sandbox.phase() != SandboxPhase::Ready {
            return Err(Fault::failed_precondition(format!(
                "the pod sandbox of container {id:?} is not ready"
            )));
        }
        let first = container
            .first
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        let link = match first {
            Some(link) => link,
            None => Link::connect(&container.dir).await?,
        };
        match link
            .call(request::Kind::Start(shim::Start {}), &[], START_DEADLINE)
            .await
        {
            Ok((reply::Kind::Started(started), _)) => {
                container.state.send_replace(State::Running {
                    since_ns: started.started_at_ns,
                    pid: started.pid,
                });
                self.events
                    .tell(&container.sandbox.id, &container.id, EventKind::Started);
                self.watch(container, link);
                Ok(())
            }
            Ok((other, _)) => Err(link::unexpected(&other)),
            Err(fault) => {
                // The shim has written why; its end is waited for like any other.
                self.watch(container, link);
                Err(fault.while_doing(format!("starting container {id:?}")))
            }
        }
    }

    /// Follows a container to its end, on a task of its own.
    pub fn watch(self: &Arc<Self>, container: &Arc<Container>, link: Link) {
        let runtime = Arc::clone(self);
        let container = Arc::clone(container);
        tokio::spawn(async move {
            let ended = wait(&container, &link).await;
            runtime.record_end(&container, ended).await;
        });
    }

    /// Records an end, then tells it: never the other way round.
    pub async fn record_end(&self, container: &Container, ended: Ended) {
        if matches!(container.state(), State::Exited(_)) {
            return;
        }
        let record = container.change(|record| {
            if record.phase != Phase::Removing {
                record.phase = Phase::Exited(ended.clone());
            }
        });
        if record.phase != Phase::Removing
            && let Err(error) = self.store.put(Table::Containers, &container.id, &record).await
        {
            // The shim's own record still has it.
            tracing::error!(container = %container.id, %error, "the end of a container could not be recorded");
        }
        container.state.send_replace(State::Exited(ended));
        self.events
            .tell(&container.sandbox.id, &container.id, EventKind::Stopped);
        self.leave_scope(container);
    }
}

async fn wait(container: &Container, link: &Link) -> Ended {
    if link.send(request::Kind::Wait(shim::Wait {}), &[]).await.is_ok() {
        match link.receive().await {
            Ok(Some((reply::Kind::Exit(exit), _))) => return exit.into(),
            Ok(None) => {}
            other => tracing::warn!(container = %container.id, ?other, "a shim answered oddly"),
        }
    }
    end_on_disk(container)
}

/// How a container ended whose shim is gone.
pub(super) fn end_on_disk(container: &Container) -> Ended {
    match supervise::exit_record(&container.dir) {
        Ok(Some(exit)) => exit.into(),
        Ok(None) => lost("its shim ended without leaving an exit status"),
        Err(fault) => lost(&fault.message),
    }
}

/// An end of which nothing is known but that it came.
#[must_use]
pub fn lost(why: &str) -> Ended {
    Ended {
        code: EXIT_CODE_UNKNOWN,
        finished_at_ns: id::now_ns(),
        message: why.to_owned(),
        ..Ended::default()
    }
}
