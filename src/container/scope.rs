//! The systemd unit around a cgroup, where a slice is the parent: started before the shim fills the cgroup, told of new
//! limits, stopped at the end. Elsewhere nothing is done.

use criquet_proto::shim::Cgroup;

use super::config::Resources;
use super::record::Container;
use crate::fault::Result;
use crate::plan::scope;
use crate::runtime::Runtime;
use crate::sandbox::config::SandboxConfig;
use crate::supervise::link::Link;
use crate::systemd;

impl Runtime {
    /// Has systemd make the cgroup `cgroup` of the container or pod `id`. A unit needs a process: an idle shim holds
    /// the place until the returned link is dropped, which is to be when somebody else is in the cgroup. When the daemon
    /// dies before that, the link breaks, the unit is empty, and systemd takes it away.
    ///
    /// # Errors
    /// What systemd said.
    pub async fn start_scope(&self, pod: &SandboxConfig, id: &str, cgroup: &Cgroup) -> Result<Option<Link>> {
        let parent = &self.config.runtime.cgroup_parent;
        let Some(unit) = scope::unit(parent, pod, id) else {
            return Ok(None);
        };
        let (link, pid) = self.launcher.hold_place(id).await?;
        systemd::start(&unit, &scope::properties(parent, pod, id, cgroup, pid)).await?;
        Ok(Some(link))
    }

    /// Has systemd forget the unit. What is still in it is killed. Not there: done.
    ///
    /// # Errors
    /// What systemd said.
    pub async fn stop_scope(&self, pod: &SandboxConfig, id: &str) -> Result<()> {
        match scope::unit(&self.config.runtime.cgroup_parent, pod, id) {
            Some(unit) => systemd::stop(&unit).await,
            None => Ok(()),
        }
    }

    /// As [`Runtime::stop_scope`] when a container has ended, without waiting: its removal does it again. systemd itself
    /// may not see the end, because the shim takes the empty cgroup away at once.
    pub fn leave_scope(&self, container: &Container) {
        let parent = &self.config.runtime.cgroup_parent;
        if let Some(unit) = scope::unit(parent, &container.sandbox.config, &container.id) {
            tokio::spawn(async move {
                if let Err(fault) = systemd::stop(&unit).await {
                    tracing::warn!(unit, %fault, "the unit of a container that has ended is still there");
                }
            });
        }
    }

    /// Tells systemd of new limits, so that it does not put the old ones back.
    ///
    /// # Errors
    /// What systemd said.
    pub async fn limit_scope(&self, container: &Container, resources: &Resources) -> Result<()> {
        let parent = &self.config.runtime.cgroup_parent;
        match scope::unit(parent, &container.sandbox.config, &container.id) {
            Some(unit) => systemd::set(&unit, &scope::resource_properties(&self.host, resources)?).await,
            None => Ok(()),
        }
    }
}
