//! StopContainer and RemoveContainer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criquet_proto::shim::{self, Plan, request};
use criquet_sys::signal::SIGKILL;
use prost::Message;
use tokio::time::{Instant, timeout, timeout_at};

use super::create::PLAN_NAME;
use super::record::{Container, Phase, State};
use super::start::lost;
use crate::event::Kind as EventKind;
use crate::fault::{Fault, Kind, OrFault, Result};
use crate::fault_point::{Point, pass, reach};
use crate::id;
use crate::runtime::Runtime;
use crate::store::Table;
use crate::supervise;
use crate::supervise::link::Link;

/// From SIGKILL to the recorded end: a process in the kernel's uninterruptible sleep can take long, and then
/// the kubelet asks again.
const KILL_DEADLINE: Duration = Duration::from_secs(60);
/// A shim that is not busy with an exec takes a signal at once. Another is not waited for: the kernel is asked.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(3);
/// A shim that took no signal, and whose container is killed, has recorded the end within this, or is stuck.
const STUCK_DEADLINE: Duration = Duration::from_secs(5);
/// As shells tell a death by SIGKILL.
const EXIT_CODE_KILLED: i32 = 128 + SIGKILL;

impl Runtime {
    /// Asks a container to end, waits for `grace`, kills it. Unknown or ended: nothing to do. Each call keeps its
    /// own time, so that a shorter one ends a stop that is under way.
    ///
    /// # Errors
    /// `DeadlineExceeded`: it does not end though it was killed.
    pub async fn stop_container(self: &Arc<Self>, name: &str, grace: Duration) -> Result<()> {
        let Some(container) = self.containers.find(name) else {
            return Ok(());
        };
        let runtime = Arc::clone(self);
        // On a task of its own: a caller that goes away stops nothing half-way.
        tokio::spawn(async move { runtime.end(&container, grace).await })
            .await
            .or_internal(|| "stopping a container".into())?
    }

    async fn end(self: &Arc<Self>, container: &Arc<Container>, grace: Duration) -> Result<()> {
        match container.state() {
            State::Exited(_) => return Ok(()),
            // It never ran: there is nothing to ask.
            State::Created => return self.kill_created(container).await,
            State::Running { .. } => {}
        }
        if !grace.is_zero() {
            let until = Instant::now() + grace;
            let signal = container.with_record(|record| record.stop_signal);
            // A stop that is under way may have ended it just now; one that is stuck is killed in the end.
            if let Err(fault) = self.signal(container, signal, false).await {
                tracing::debug!(container = %container.id, %fault, signal, "a shim did not take a signal");
            }
            pass(Point::StopAsked).await;
            if timeout_at(until, container.ended()).await.is_ok() {
                return Ok(());
            }
        }
        self.kill(container).await
    }

    async fn kill_created(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _turn = container.turn.lock().await;
        if container.state() == State::Created {
            let link = match container.take_first() {
                Some(link) => Ok(link),
                None => Link::connect(&container.dir).await,
            };
            match link {
                Ok(link) => self.watch(container, link),
                Err(fault) => {
                    tracing::debug!(container = %container.id, %fault, "no shim of a created container answers");
                    let ended = self
                        .end_without_shim(container, "its shim was gone before it was started")
                        .await;
                    self.record_end(container, ended).await;
                }
            }
        }
        self.kill(container).await
    }

    async fn kill(&self, container: &Arc<Container>) -> Result<()> {
        let until = Instant::now() + KILL_DEADLINE;
        if let Err(fault) = self.signal(container, SIGKILL, true).await
            && !matches!(container.state(), State::Exited(_))
        {
            tracing::debug!(container = %container.id, %fault, "a shim did not take SIGKILL; its cgroup is killed");
            self.kill_cgroup(container).await;
            // Whatever else it is, it is no silence: who watches the shim learns more.
            if fault.kind == Kind::DeadlineExceeded
                && timeout(STUCK_DEADLINE, container.ended()).await.is_err()
            {
                self.give_up_shim(container).await?;
            }
        }
        pass(Point::StopKilled).await;
        timeout_at(until, container.ended()).await.map_err(|_| {
            Fault::deadline_exceeded(format!(
                "container {:?} does not end, {} s after it was killed",
                id::short(&container.id),
                KILL_DEADLINE.as_secs()
            ))
        })
    }

    async fn signal(&self, container: &Container, signal: i32, all: bool) -> Result<()> {
        let request = request::Kind::Signal(shim::Signal { signal, all });
        timeout(SIGNAL_DEADLINE, supervise::tell(&container.dir, request))
            .await
            .unwrap_or_else(|_| Err(Fault::deadline_exceeded("a shim does not answer")))
    }

    /// Ends a shim that is stuck (stopped, or hanging in the kernel) although its container is gone.
    async fn give_up_shim(&self, container: &Container) -> Result<()> {
        let cgroups = self.cgroup_dirs(container).await;
        let left = tokio::task::spawn_blocking(move || super::cgroup::processes(&cgroups));
        let left = left.await.or_internal(|| "looking into a cgroup".into())?;
        if !left.is_empty() {
            return Err(Fault::deadline_exceeded(format!(
                "container {:?} does not end: processes {left:?} were killed and are still there",
                id::short(&container.id)
            )));
        }
        if !container.claim_end() {
            return Ok(());
        }
        tracing::warn!(container = %container.id, "a shim is stuck; it is killed");
        // The shim may have come to itself meanwhile: its own word comes first.
        let killed = kill_processes(&container.id).await;
        let known = supervise::exit_record(&container.dir).ok().flatten();
        let ended = known.map_or_else(
            || {
                lost(
                    container,
                    EXIT_CODE_KILLED,
                    "it was killed, with its shim that did not answer",
                )
            },
            Into::into,
        );
        self.write_end(container, ended).await;
        killed
    }

    /// Takes a container away; a running one is killed. Unknown: nothing to do.
    ///
    /// # Errors
    /// It does not end, or its files do not go; a repeated call, or the next start, goes on.
    pub async fn remove_container(self: &Arc<Self>, name: &str) -> Result<()> {
        let Some(container) = self.containers.find(name) else {
            return Ok(());
        };
        let runtime = Arc::clone(self);
        tokio::spawn(async move {
            runtime.end(&container, Duration::ZERO).await?;
            let _turn = container.turn.lock().await;
            if runtime.containers.find(&container.id).is_none() {
                return Ok(());
            }
            let record = container.change(|record| record.phase = Phase::Removing);
            runtime
                .store
                .put(Table::Containers, &container.id, &record)
                .await
                .or_internal(|| "recording the container".into())?;
            reach(Point::RemoveIntent).await?;
            runtime.clear(&container).await?;
            reach(Point::RemoveCleared).await?;
            runtime.forget_container(&container).await?;
            pass(Point::RemoveForgotten).await;
            runtime
                .events
                .tell(&container.sandbox.id, &container.id, EventKind::Deleted);
            Ok(())
        })
        .await
        .or_internal(|| "removing a container".into())?
    }

    /// Takes away a container that must not be, whatever of it exists: its shim, its processes, its files, its
    /// record. What does not go stays known as a container that has ended, so that its removal can be repeated.
    pub async fn discard(self: &Arc<Self>, container: &Arc<Container>) {
        let gone = match kill_processes(&container.id).await {
            Ok(()) => self.clear(container).await,
            Err(fault) => Err(fault),
        };
        let gone = match gone {
            Ok(()) => self.forget_container(container).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = gone {
            tracing::warn!(container = %container.id, %fault, "a container is not gone yet");
            container.change(|record| record.phase = Phase::Removing);
            self.record_end(
                container,
                lost(container, super::record::EXIT_CODE_UNKNOWN, &fault.message),
            )
            .await;
            // One whose pod is not known can be told to nobody: the next start tries again.
            if !container.sandbox.id.is_empty() {
                self.containers.insert(&container.id, Arc::clone(container));
            }
        }
    }

    /// Takes away the record of a container of which nothing is left, and lets go of its images.
    ///
    /// # Errors
    /// The record could not be removed.
    pub async fn forget_container(&self, container: &Container) -> Result<()> {
        self.store
            .remove(Table::Containers, &container.id)
            .await
            .or_internal(|| "forgetting the container".into())?;
        self.containers.remove(&container.id);
        container.keep_leases(Vec::new());
        Ok(())
    }

    /// Takes away what a container that has ended still has: cgroups, files, its writable layer.
    ///
    /// # Errors
    /// All that did not work, in one sentence.
    pub async fn clear(&self, container: &Container) -> Result<()> {
        self.stop_scope(&container.sandbox.config, &container.id).await?;
        let cgroups = self.cgroup_dirs(container).await;
        let (dir, root) = (container.dir.clone(), container.root.clone());
        let cleared = tokio::task::spawn_blocking(move || {
            let mut problems = Vec::new();
            for cgroup in cgroups {
                if let Err(error) = super::cgroup::remove(&cgroup) {
                    problems.push(error.message);
                }
            }
            // Last the one that tells of the container, so that a half-cleared one is found again.
            for dir in [root, dir] {
                match std::fs::remove_dir_all(&dir) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        problems.push(format!("removing {dir:?}: {error}"));
                    }
                    _ => {}
                }
            }
            problems
        });
        let problems = cleared
            .await
            .or_internal(|| "clearing up after a container".into())?;
        if problems.is_empty() {
            return Ok(());
        }
        Err(Fault::internal(format!(
            "clearing up after container {:?}: {}",
            container.id,
            problems.join("; ")
        )))
    }

    /// Kills whatever is in a container's cgroups.
    pub(super) async fn kill_cgroup(&self, container: &Container) {
        let cgroups = self.cgroup_dirs(container).await;
        let killed = tokio::task::spawn_blocking(move || {
            cgroups.iter().try_for_each(|cgroup| super::cgroup::kill(cgroup))
        });
        if let Err(fault) = killed.await.or_internal(|| "killing a cgroup".into()).flatten() {
            tracing::warn!(container = %container.id, %fault, "a cgroup could not be killed");
        }
    }

    /// Its cgroups, a folder a hierarchy. Where its pod is not known any more, as its plan says.
    async fn cgroup_dirs(&self, container: &Container) -> Vec<PathBuf> {
        if !container.sandbox.id.is_empty() {
            return self.cgroups_of(container);
        }
        let path = container.dir.join(PLAN_NAME);
        let plan = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
        let plan = plan.ok().and_then(std::result::Result::ok);
        let plan = plan
            .and_then(|bytes| Plan::decode(bytes.as_slice()).ok())
            .unwrap_or_default();
        plan.cgroup
            .unwrap_or_default()
            .dirs
            .into_iter()
            .map(|dir| dir.path.into())
            .collect()
    }
}

/// Kills the shim of a container, or the init of a pod, and what of it is not yet the user's program.
///
/// # Errors
/// One does not end.
pub(crate) async fn kill_processes(id: &str) -> Result<()> {
    let id = id.to_owned();
    tokio::task::spawn_blocking(move || supervise::process::kill_all(&id))
        .await
        .or_internal(|| "ending a shim".into())?
}
