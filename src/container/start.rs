//! StartContainer: releases the waiting init; and the watch over a container until its end is recorded.

use std::sync::Arc;
use std::time::Duration;

use criquet_proto::shim::{self, reply, request};

use super::create::connect;
use super::record::{Container, EXIT_CODE_UNKNOWN, Ended, Phase, State};
use crate::event::Kind as EventKind;
use crate::fault::{Fault, Kind, OrFault, Result};
use crate::fault_point::{Point, pass, reach};
use crate::id;
use crate::runtime::Runtime;
use crate::sandbox::record::Phase as SandboxPhase;
use crate::store::Table;
use crate::supervise::{self, link, link::Link};

/// execve of the user's program: it reads the program from a disk that may be slow.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// A container whose start failed has ended within this; the answer waits for it, so that a look at the container
/// right after it shows why.
const FAILED_START_DEADLINE: Duration = Duration::from_secs(10);
/// Between two tries to reach a shim whose connection broke.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

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
            .or_internal(|| "starting a container".into())?
    }

    async fn release(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let id = id::short(&container.id);
        let refused = |why| Err(Fault::failed_precondition(format!("container {id:?} {why}")));
        match container.state() {
            State::Created => {}
            State::Running { .. } => return refused("runs already"),
            State::Exited(_) => return refused("has exited; create another one"),
        }
        if container.sandbox.phase() != SandboxPhase::Ready {
            return refused("cannot start: its pod sandbox is not ready");
        }
        reach(Point::StartAsked).await?;
        let link = match container.take_first() {
            Some(link) => link,
            None => connect(container).await?,
        };
        match link
            .call(request::Kind::Start(shim::Start {}), &[], START_DEADLINE)
            .await
        {
            Ok((reply::Kind::Started(started), _)) => {
                pass(Point::StartReleased).await;
                let running = State::Running {
                    since_ns: started.started_at_ns,
                    pid: started.pid,
                };
                container.enter_telling(running, || {
                    self.events
                        .tell(&container.sandbox.id, &container.id, EventKind::Started);
                });
                self.watch(container, link);
                Ok(())
            }
            answer => {
                let fault = answer.map_or_else(|fault| fault, |(other, _)| link::unexpected(&other));
                // The shim has written why; its end is waited for like any other.
                self.watch(container, link);
                if fault.kind != Kind::DeadlineExceeded {
                    // Later is early enough: it will be told like any other end.
                    tokio::time::timeout(FAILED_START_DEADLINE, container.ended())
                        .await
                        .ok();
                }
                Err(fault.while_doing(format!("starting container {id:?}")))
            }
        }
    }

    /// Follows a container to its end, on a task of its own.
    pub fn watch(self: &Arc<Self>, container: &Arc<Container>, link: Link) {
        let runtime = Arc::clone(self);
        let container = Arc::clone(container);
        tokio::spawn(async move {
            let ended = runtime.follow(&container, link).await;
            runtime.record_end(&container, ended).await;
        });
    }

    async fn follow(&self, container: &Container, mut link: Link) -> Ended {
        loop {
            if let Some(ended) = wait(container, &link).await {
                return ended;
            }
            // Was it the connection alone, or its shim? Only what is gone for good is an end.
            link = loop {
                match Link::connect(&container.dir).await {
                    Ok(link) => {
                        // In case it cuts us off again and again.
                        tokio::time::sleep(RECONNECT_PAUSE).await;
                        break link;
                    }
                    Err(fault) if fault.kind == Kind::NotFound => {
                        return self
                            .end_without_shim(container, "its shim ended without leaving an exit status")
                            .await;
                    }
                    Err(fault) => {
                        tracing::warn!(container = %container.id, %fault, "the connection to a shim is lost");
                        tokio::time::sleep(RECONNECT_PAUSE).await;
                    }
                }
            };
        }
    }

    /// How a container ended whose shim is gone: as its exit record says, else nobody knows. Then its processes
    /// may live on, and nobody else would end them.
    pub async fn end_without_shim(&self, container: &Container, why: &str) -> Ended {
        let dir = container.dir.clone();
        let record = tokio::task::spawn_blocking(move || supervise::exit_record(&dir)).await;
        let why = match record.or_internal(|| "reading an exit record".into()).flatten() {
            Ok(Some(exit)) => return exit.into(),
            Ok(None) => why.to_owned(),
            Err(fault) => fault.message,
        };
        self.kill_cgroup(container).await;
        lost(container, EXIT_CODE_UNKNOWN, &why)
    }

    /// Records an end, then tells it: never the other way round. The first who sees an end records it.
    pub async fn record_end(&self, container: &Container, ended: Ended) {
        if container.claim_end() {
            self.write_end(container, ended).await;
        }
    }

    /// [`Runtime::record_end`] for who has claimed the end.
    pub(super) async fn write_end(&self, container: &Container, ended: Ended) {
        pass(Point::StopEnded).await;
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
        pass(Point::StopRecorded).await;
        container.enter_telling(State::Exited(ended), || {
            self.events
                .tell(&container.sandbox.id, &container.id, EventKind::Stopped);
        });
        self.leave_scope(container);
    }
}

/// The end that the shim tells; `None` when the connection is lost.
async fn wait(container: &Container, link: &Link) -> Option<Ended> {
    link.send(request::Kind::Wait(shim::Wait {}), &[]).await.ok()?;
    loop {
        match link.receive().await {
            Ok(Some((reply::Kind::Exit(exit), _))) => return Some(exit.into()),
            // The answer to a Start that came after its deadline.
            Ok(Some((reply::Kind::Started(started), _))) => container.enter(State::Running {
                since_ns: started.started_at_ns,
                pid: started.pid,
            }),
            Ok(Some((reply::Kind::Failed(failed), _))) => {
                tracing::warn!(container = %container.id, why = failed.message, "a shim refused, late");
            }
            Ok(None) => return None,
            other => {
                tracing::warn!(container = %container.id, ?other, "a shim answered oddly");
                tokio::time::sleep(RECONNECT_PAUSE).await;
                return None;
            }
        }
    }
}

/// An end of which little is known but that it came.
#[must_use]
pub fn lost(container: &Container, code: i32, why: &str) -> Ended {
    Ended {
        code,
        started_at_ns: container.started_at_ns(),
        finished_at_ns: id::now_ns(),
        message: why.to_owned(),
        ..Ended::default()
    }
}
