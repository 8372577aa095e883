//! StopPodSandbox and RemovePodSandbox, and the one way of taking a pod apart, which an undo and a recovery
//! use as well: every step is tried, whatever the one before it said.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use criquet_sys::signal::SIGKILL;

use super::record::{Phase, PodInit, Sandbox};
use crate::event::Kind as EventKind;
use crate::fault::{Fault, OrFault, Result};
use crate::fault_point::{Point, pass, reach};
use crate::runtime::Runtime;
use crate::store::Table;

/// A killed pod init is gone within this: it holds nothing.
const INIT_END_DEADLINE: Duration = Duration::from_secs(5);

impl Runtime {
    /// Ends all containers of a pod and gives back its network. Unknown or stopped: nothing to do.
    ///
    /// # Errors
    /// A container or the network did not let go; a repeated call goes on.
    pub async fn stop_sandbox(self: &Arc<Self>, name: &str) -> Result<()> {
        let Some(sandbox) = self.sandboxes.find(name) else {
            return Ok(());
        };
        let runtime = Arc::clone(self);
        // On a task of its own: a caller that goes away stops nothing half-way.
        tokio::spawn(async move {
            let _turn = sandbox.turn.lock().await;
            runtime.stop_sandbox_now(&sandbox).await
        })
        .await
        .or_internal(|| "stopping a pod".into())?
    }

    async fn stop_sandbox_now(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        match sandbox.phase() {
            Phase::NotReady => return self.stop_containers_of(&sandbox.id).await,
            // A removal that did not work; only another one forgets the pod.
            Phase::Removing => return self.take_down(sandbox, Phase::Removing).await,
            Phase::Creating | Phase::Ready | Phase::Stopping => {}
        }
        self.take_down(sandbox, Phase::Stopping).await?;
        let record = sandbox.change(|record| {
            record.phase = Phase::NotReady;
            record.pod_init = None;
        });
        self.store
            .put(Table::Sandboxes, &sandbox.id, &record)
            .await
            .or_internal(|| "recording the pod".into())?;
        pass(Point::StopPodRecorded).await;
        self.events.tell(&sandbox.id, &sandbox.id, EventKind::Stopped);
        Ok(())
    }

    /// Ends a pod's containers and takes the pod apart.
    async fn take_down(self: &Arc<Self>, sandbox: &Arc<Sandbox>, intent: Phase) -> Result<()> {
        // In memory before the containers are listed: one that is being made now sees it, or is seen.
        let record = sandbox.change(|record| record.phase = intent);
        // That containers end before it is recorded does no harm: an end is one wherever it comes from.
        let (recorded, stopped) = tokio::join!(
            self.store.put(Table::Sandboxes, &sandbox.id, &record),
            self.stop_containers_of(&sandbox.id)
        );
        recorded.or_internal(|| "recording the pod".into())?;
        stopped?;
        reach(Point::StopPodIntent).await?;
        self.dismantle(sandbox).await?;
        reach(Point::StopPodCleared).await
    }

    async fn stop_containers_of(self: &Arc<Self>, sandbox: &str) -> Result<()> {
        let stops = self.containers_of(sandbox).into_iter().map(|container| {
            let runtime = Arc::clone(self);
            async move { runtime.stop_container(&container.id, Duration::ZERO).await }
        });
        let results = futures_util::future::join_all(stops).await;
        results.into_iter().collect::<Result<Vec<()>>>().map(drop)
    }

    /// Takes a pod away, with its containers. Unknown: nothing to do.
    ///
    /// # Errors
    /// A step failed; a repeated call, or the next start, goes on.
    pub async fn remove_sandbox(self: &Arc<Self>, name: &str) -> Result<()> {
        let Some(sandbox) = self.sandboxes.find(name) else {
            return Ok(());
        };
        let runtime = Arc::clone(self);
        tokio::spawn(async move {
            let _turn = sandbox.turn.lock().await;
            if runtime.sandboxes.find(&sandbox.id).is_none() {
                return Ok(());
            }
            // A stopped pod needs no intent: with fewer containers it is still one.
            if sandbox.phase() != Phase::NotReady {
                runtime.take_down(&sandbox, Phase::Removing).await?;
            }
            reach(Point::RemovePodStopped).await?;
            let removals = runtime.containers_of(&sandbox.id).into_iter().map(|container| {
                let runtime = Arc::clone(&runtime);
                async move { runtime.remove_container(&container.id).await }
            });
            let results = futures_util::future::join_all(removals).await;
            results.into_iter().collect::<Result<Vec<()>>>()?;
            reach(Point::RemovePodContainers).await?;
            runtime.forget_sandbox(&sandbox).await?;
            pass(Point::RemovePodForgotten).await;
            runtime.events.tell(&sandbox.id, &sandbox.id, EventKind::Deleted);
            Ok(())
        })
        .await
        .or_internal(|| "removing a pod".into())?
    }

    /// Looks after a pod's init: without it nothing can run in the pod any more.
    pub fn watch_pod_init(self: &Arc<Self>, sandbox: &Arc<Sandbox>, pidfd: OwnedFd) {
        let (runtime, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        tokio::spawn(async move {
            match crate::supervise::link::watched(pidfd) {
                Ok(pidfd) if pidfd.readable().await.is_ok() => runtime.lose_pod_init(&sandbox).await,
                Ok(_) => {}
                Err(fault) => tracing::warn!(sandbox = %sandbox.id, %fault, "a pod's init is not watched"),
            }
        });
    }

    /// A pod whose init has ended is not ready, and waits to be stopped.
    pub async fn lose_pod_init(&self, sandbox: &Sandbox) {
        let mut was_ready = false;
        let record = sandbox.change(|record| {
            was_ready = record.phase == Phase::Ready;
            if was_ready {
                record.phase = Phase::Stopping;
            }
        });
        if !was_ready {
            return;
        }
        tracing::warn!(sandbox = %sandbox.id, "the init of a pod has ended; the pod is not ready");
        if let Err(error) = self.store.put(Table::Sandboxes, &sandbox.id, &record).await {
            tracing::warn!(sandbox = %sandbox.id, %error, "that a pod is not ready could not be recorded");
        }
        self.events.tell(&sandbox.id, &sandbox.id, EventKind::Stopped);
    }

    /// Takes a dismantled pod's record away.
    ///
    /// # Errors
    /// The record could not be removed.
    pub async fn forget_sandbox(&self, sandbox: &Sandbox) -> Result<()> {
        self.store
            .remove(Table::Sandboxes, &sandbox.id)
            .await
            .or_internal(|| "forgetting the pod".into())?;
        self.sandboxes.remove(&sandbox.id);
        Ok(())
    }

    /// Takes apart whatever of a pod exists: network, init, pinned namespaces, tmpfs, cgroup, folder.
    ///
    /// # Errors
    /// All that did not work, in one sentence.
    pub async fn dismantle(&self, sandbox: &Sandbox) -> Result<()> {
        let mut problems: Vec<String> = Vec::new();
        if let Err(error) = self.network.detach(&sandbox.id).await {
            problems.push(error.to_string());
        }
        reach(Point::StopPodNetwork).await?;
        if let Some(init) = sandbox.record().pod_init
            && let Err(error) = end_pod_init(init).await
        {
            problems.push(error.to_string());
        }
        let dir = sandbox.dir.clone();
        let cgroup = crate::plan::pod_cgroup(
            &self.host,
            &self.config.runtime.cgroup_parent,
            &sandbox.config,
            &sandbox.id,
        );
        let cleared = tokio::task::spawn_blocking(move || super::namespaces::clear(&dir, &cgroup)).await;
        match cleared {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => problems.push(fault.message),
            Err(error) => problems.push(error.to_string()),
        }
        if let Err(fault) = self.stop_scope(&sandbox.config, &sandbox.id).await {
            problems.push(fault.message);
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Fault::internal(format!(
            "taking pod sandbox {:?} apart: {}",
            sandbox.id,
            problems.join("; ")
        )))
    }
}

/// Kills a pod's init, if that process is still the one that was recorded.
async fn end_pod_init(init: PodInit) -> Result<()> {
    let Ok(pidfd) = criquet_sys::pidfd::open(init.pid) else {
        return Ok(());
    };
    // Opened first, compared second: the descriptor cannot change its process any more.
    if criquet_sys::process::start_time(init.pid) != Some(init.start_time) {
        return Ok(());
    }
    // ESRCH: it ended by itself.
    criquet_sys::pidfd::signal(&pidfd, SIGKILL).ok();
    let pidfd = crate::supervise::link::watched(pidfd)?;
    match tokio::time::timeout(INIT_END_DEADLINE, pidfd.readable()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error).or_internal(|| "watching the pod's init".into()),
        Err(_) => Err(Fault::deadline_exceeded(format!(
            "the pod's init, pid {}, did not end when killed",
            init.pid
        ))),
    }
}
