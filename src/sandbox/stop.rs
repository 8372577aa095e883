//! StopPodSandbox and RemovePodSandbox, and the one way of taking a pod apart, which an undo and a recovery
//! use as well: every step is tried, whatever the one before it said.

use std::sync::Arc;
use std::time::Duration;

use criquet_sys::signal::SIGKILL;

use super::record::{Phase, PodInit, Sandbox};
use crate::event::Kind as EventKind;
use crate::fault::{Fault, OrFault, Result};
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
        self.stop_containers_of(&sandbox.id).await?;
        if matches!(sandbox.phase(), Phase::NotReady | Phase::Removing) {
            return Ok(());
        }
        self.dismantle(sandbox).await?;
        let record = sandbox.change(|record| {
            record.phase = Phase::NotReady;
            record.pod_init = None;
        });
        self.store
            .put(Table::Sandboxes, &sandbox.id, &record)
            .await
            .or_internal(|| "recording the pod".into())?;
        self.events.tell(&sandbox.id, &sandbox.id, EventKind::Stopped);
        Ok(())
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
            runtime.stop_sandbox_now(&sandbox).await?;
            let record = sandbox.change(|record| record.phase = Phase::Removing);
            runtime
                .store
                .put(Table::Sandboxes, &sandbox.id, &record)
                .await
                .or_internal(|| "recording the pod".into())?;
            for container in runtime.containers_of(&sandbox.id) {
                runtime.remove_container(&container.id).await?;
            }
            runtime.forget_sandbox(&sandbox).await?;
            runtime.events.tell(&sandbox.id, &sandbox.id, EventKind::Deleted);
            Ok(())
        })
        .await
        .or_internal(|| "removing a pod".into())?
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
