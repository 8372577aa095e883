//! StopContainer and RemoveContainer.

use std::sync::Arc;
use std::time::Duration;

use criquet_proto::shim::{self, request};
use criquet_sys::signal::SIGKILL;

use super::record::{Container, Phase, State};
use crate::event::Kind as EventKind;
use crate::fault::{Fault, OrFault, Result};
use crate::id;
use crate::runtime::Runtime;
use crate::store::Table;
use crate::supervise;

/// From SIGKILL to the recorded end: a process in the kernel's uninterruptible sleep can take long, and then
/// the kubelet asks again.
const KILL_DEADLINE: Duration = Duration::from_secs(60);

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
            let signal = container.with_record(|record| record.stop_signal);
            self.signal(container, signal, false).await;
            if tokio::time::timeout(grace, container.ended()).await.is_ok() {
                return Ok(());
            }
        }
        self.kill(container).await
    }

    async fn kill_created(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _turn = container.turn.lock().await;
        match container.state() {
            State::Exited(_) => return Ok(()),
            State::Running { .. } => return self.kill(container).await,
            State::Created => {}
        }
        let first = container
            .first
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        let link = match first {
            Some(link) => Ok(link),
            None => supervise::link::Link::connect(&container.dir).await,
        };
        if let Ok(link) = link {
            self.watch(container, link);
        } else {
            self.record_end(container, super::start::end_on_disk(container))
                .await;
        }
        self.kill(container).await
    }

    async fn kill(&self, container: &Arc<Container>) -> Result<()> {
        self.signal(container, SIGKILL, true).await;
        if tokio::time::timeout(KILL_DEADLINE, container.ended())
            .await
            .is_ok()
        {
            return Ok(());
        }
        Err(Fault::deadline_exceeded(format!(
            "container {:?} does not end, {} s after it was killed",
            id::short(&container.id),
            KILL_DEADLINE.as_secs()
        )))
    }

    /// Signals; when the shim does not take it, SIGKILL is still sent to the cgroup.
    async fn signal(&self, container: &Container, signal: i32, all: bool) {
        let request = request::Kind::Signal(shim::Signal { signal, all });
        if let Err(fault) = supervise::tell(&container.dir, request).await
            && !matches!(container.state(), State::Exited(_))
        {
            // Mostly a container that ends by itself just now; its end is waited for in any case.
            tracing::debug!(container = %container.id, %fault, signal, "a shim did not take a signal");
            if signal == SIGKILL {
                self.kill_cgroup(container).await;
            }
        }
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
            runtime.clear(&container).await?;
            runtime.forget_container(&container).await?;
            runtime
                .events
                .tell(&container.sandbox.id, &container.id, EventKind::Deleted);
            Ok(())
        })
        .await
        .or_internal(|| "removing a container".into())?
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
        container
            .leases
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clear();
        Ok(())
    }

    /// Takes away what a container that has ended still has: cgroups, files, its writable layer.
    ///
    /// # Errors
    /// All that did not work, in one sentence.
    pub async fn clear(&self, container: &Container) -> Result<()> {
        self.stop_scope(&container.sandbox.config, &container.id).await?;
        let cgroups = self.cgroup_dirs(container);
        let (dir, root) = (container.dir.clone(), container.root.clone());
        let cleared = tokio::task::spawn_blocking(move || {
            let mut problems = Vec::new();
            for cgroup in cgroups {
                if let Err(error) = super::cgroup::remove(&cgroup) {
                    problems.push(error.message);
                }
            }
            for dir in [dir, root] {
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

    async fn kill_cgroup(&self, container: &Container) {
        let cgroups = self.cgroup_dirs(container);
        let killed = tokio::task::spawn_blocking(move || {
            cgroups.iter().try_for_each(|cgroup| super::cgroup::kill(cgroup))
        });
        match killed.await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => {
                tracing::warn!(container = %container.id, %fault, "a cgroup could not be killed")
            }
            Err(error) => tracing::warn!(container = %container.id, %error, "a cgroup could not be killed"),
        }
    }

    fn cgroup_dirs(&self, container: &Container) -> Vec<std::path::PathBuf> {
        crate::plan::container_cgroup_dirs(
            &self.host,
            &self.config.runtime.cgroup_parent,
            &container.sandbox.config,
            &container.id,
        )
    }
}
