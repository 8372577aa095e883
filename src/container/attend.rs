//! Small things done to a container that runs: its log, and its resources.

use std::sync::Arc;

use criquet_proto::shim::{self, request};

use super::config::Resources;
use super::create::gone;
use super::record::{Container, State};
use crate::fault::{Fault, OrFault, Result};
use crate::plan;
use crate::runtime::Runtime;
use crate::store::Table;
use crate::supervise;

impl Runtime {
    /// Has the shim open its log file anew, after a rotation.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` when it does not run.
    pub async fn reopen_log(&self, name: &str) -> Result<()> {
        let container = self.containers.get(name)?;
        container.require_running("reopen the log of")?;
        supervise::tell(&container.dir, request::Kind::ReopenLog(shim::ReopenLog {}))
            .await
            .map_err(|fault| gone(&container, &fault))
    }

    /// Changes the resources of a container: all of them, or none.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` when it has exited, and what the kernel refused.
    pub async fn update_container(self: &Arc<Self>, name: &str, resources: Resources) -> Result<()> {
        let container = self.containers.get(name)?;
        let runtime = Arc::clone(self);
        // On a task of its own: a caller that goes away leaves nothing half set.
        tokio::spawn(async move { runtime.update_container_now(&container, resources).await })
            .await
            .or_internal(|| "updating a container".into())?
    }

    async fn update_container_now(&self, container: &Container, resources: Resources) -> Result<()> {
        let name = crate::id::short(&container.id);
        let _turn = container.turn.lock().await;
        if matches!(container.state(), State::Exited(_)) {
            return Err(Fault::failed_precondition(format!(
                "cannot update container {name:?}: it has exited"
            )));
        }
        let before = container.resources();
        let after = before.updated(&resources);
        plan::resources::check(&after)?;
        let parent = &self.config.runtime.cgroup_parent;
        let pod = &container.sandbox.config;
        let writes = plan::resources::update(&self.host, parent, pod, &container.id, &before, &after)?;
        // First: systemd writes its own, coarser idea of a quota.
        self.limit_scope(container, &after).await?;
        let applied = tokio::task::spawn_blocking(move || plan::resources::apply(&writes));
        if let Err(fault) = applied.await.or_internal(|| "writing resources".into()).flatten() {
            self.limit_scope(container, &before).await?;
            return Err(fault);
        }
        if let (Some(adjust), Some(pid)) = (resources.oom_score_adj, container.pid()) {
            adjust_oom_score(pid, adjust);
        }
        let record = container.change(|record| record.config.resources = after);
        self.store
            .put(Table::Containers, &container.id, &record)
            .await
            .or_internal(|| "recording resources".into())
    }

    /// Keeps what the kubelet told of a pod's resources.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn update_sandbox(
        &self,
        name: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<()> {
        let sandbox = self.sandboxes.get(name)?;
        let _turn = sandbox.turn.lock().await;
        // Removed meanwhile: its record must not come back.
        self.sandboxes.get(&sandbox.id)?;
        let record = sandbox.change(|record| {
            record.config.overhead = overhead.or(record.config.overhead.take());
            record.config.resources = resources.or(record.config.resources.take());
        });
        self.store
            .put(Table::Sandboxes, &sandbox.id, &record)
            .await
            .or_internal(|| "recording resources".into())
    }

    /// The cgroups of a container, a folder a hierarchy.
    #[must_use]
    pub fn cgroups_of(&self, container: &Container) -> Vec<std::path::PathBuf> {
        plan::container_cgroup_dirs(
            &self.host,
            &self.config.runtime.cgroup_parent,
            &container.sandbox.config,
            &container.id,
        )
    }
}

/// Lowering it needs CAP_SYS_RESOURCE, which a daemon in a container may lack.
fn adjust_oom_score(pid: i32, adjust: i32) {
    let path = format!("{pid}/oom_score_adj");
    if let Err(error) = criquet_sys::procfs::write(&path, adjust.to_string().as_bytes()) {
        tracing::warn!(%error, "the OOM score of a container could not be changed");
    }
}
