//! RunPodSandbox: namespaces, files, network. Nothing here is a process, unless the pod shares a pid namespace.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use criquet_network::{Attachment, Pod};
use criquet_proto::shim::PodInit as PodInitPlan;

use super::config::{Network, Pid, SandboxConfig};
use super::record::{Phase, PodInit, Record, Sandbox};
use super::{files, namespaces};
use crate::event::Kind as EventKind;
use crate::fault::{Fault, OrFault, Result};
use crate::fault_point::{Point, pass, reach, reach_blocking};
use crate::id;
use crate::runtime::{Runtime, private_dir};
use crate::store::Table;

impl Runtime {
    /// Makes a pod. A repeated request joins the attempt under way, or gets the pod that it made.
    ///
    /// # Errors
    /// The configuration asks for what this host cannot give, or a step failed; then nothing is left.
    pub async fn run_sandbox(self: &Arc<Self>, mut config: SandboxConfig) -> Result<String> {
        config.add_default_sysctls(&self.config.runtime.default_sysctls);
        let handler = &config.runtime_handler;
        if !handler.is_empty() && !self.config.runtime.handlers.contains(handler) {
            return Err(Fault::invalid(format!(
                "runtime handler {handler:?} is not known: leave it empty, or add it to runtime.handlers"
            )));
        }
        self.config
            .runtime
            .check_parent(&config.cgroup_parent)
            .map_err(Fault::invalid)?;
        let key = format!(
            "{}/{}/{}/{}",
            config.namespace, config.name, config.uid, config.attempt
        );
        let runtime = Arc::clone(self);
        self.runs
            .run(key, move || async move {
                match runtime.same_sandbox(&config)? {
                    Some(id) => Ok(id),
                    None => runtime.make_sandbox(config).await,
                }
            })
            .await
    }

    /// The pod that an earlier, identical request made.
    fn same_sandbox(&self, config: &SandboxConfig) -> Result<Option<String>> {
        let named = |sandbox: &&Arc<Sandbox>| {
            let other = &sandbox.config;
            (&other.namespace, &other.name, &other.uid, other.attempt)
                == (&config.namespace, &config.name, &config.uid, config.attempt)
        };
        let all = self.sandboxes.all();
        let Some(sandbox) = all.iter().find(named) else {
            return Ok(None);
        };
        if sandbox.phase() == Phase::Ready && sandbox.config == *config {
            return Ok(Some(sandbox.id.clone()));
        }
        Err(Fault::already_exists(format!(
            "pod {}/{} attempt {} exists as sandbox {:?}: remove that one first, or count up the attempt",
            config.namespace, config.name, config.attempt, sandbox.id
        )))
    }

    async fn make_sandbox(self: &Arc<Self>, config: SandboxConfig) -> Result<String> {
        let id = self.mint()?;
        let record = Record {
            config,
            created_at_ns: id::now_ns(),
            phase: Phase::Creating,
            attachment: Attachment::default(),
            pod_init: None,
            boot_id: self.boot_id.clone(),
        };
        // The intent first: what a crash leaves half-made is found by it.
        self.store
            .put(Table::Sandboxes, &id, &record)
            .await
            .or_internal(|| "recording the pod".into())?;
        let sandbox = Arc::new(Sandbox::new(id.clone(), record, self.sandbox_dir(&id)));
        let init = match self.set_up(&sandbox).await {
            Ok(init) => init,
            Err(fault) => {
                self.take_back(&sandbox).await;
                let SandboxConfig { namespace, name, .. } = &sandbox.config;
                return Err(fault.while_doing(format!("making pod {namespace}/{name}")));
            }
        };
        self.sandboxes.insert(&id, Arc::clone(&sandbox));
        pass(Point::RunRecorded).await;
        if let Some(init) = init {
            self.watch_pod_init(&sandbox, init);
        }
        self.events.tell(&id, &id, EventKind::Created);
        self.events.tell(&id, &id, EventKind::Started);
        Ok(id)
    }

    /// Undoes a pod that could not be made. What does not go, such as a network whose plugin fails, stays known as
    /// a pod that is not ready, so that its removal can be repeated.
    async fn take_back(&self, sandbox: &Arc<Sandbox>) {
        let undone = match self.dismantle(sandbox).await {
            Ok(()) => self.forget_sandbox(sandbox).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = undone {
            tracing::warn!(sandbox = %sandbox.id, %fault, "a failed pod is not gone yet");
            sandbox.change(|record| record.phase = Phase::Stopping);
            self.sandboxes.insert(&sandbox.id, Arc::clone(sandbox));
        }
    }

    async fn set_up(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<Option<OwnedFd>> {
        reach(Point::RunIntent).await?;
        let work = Arc::clone(sandbox);
        // Mounts and namespaces block, and the log folder may be on a slow disk; the pod's network needs them.
        let hostname = tokio::task::spawn_blocking(move || prepare(&work))
            .await
            .or_internal(|| "making namespaces".into())??;
        // Both to their end: what one of them makes must be there to be undone when the other fails.
        let (attachment, init) = tokio::join!(self.attach(sandbox), self.start_pod_init(sandbox));
        let (attachment, init) = (attachment?, init?);
        let (work, known) = (Arc::clone(sandbox), attachment.clone());
        tokio::task::spawn_blocking(move || {
            files::make_hosts(&work.files_dir(), &work.config, &hostname, &known)
        })
        .await
        .or_internal(|| "writing the pod's hosts file".into())??;
        reach(Point::RunMade).await?;
        let record = sandbox.change(|record| {
            record.attachment = attachment;
            record.phase = Phase::Ready;
        });
        self.store
            .put(Table::Sandboxes, &sandbox.id, &record)
            .await
            .or_internal(|| "recording the pod".into())?;
        Ok(init)
    }

    async fn attach(&self, sandbox: &Sandbox) -> Result<Attachment> {
        let config = &sandbox.config;
        if config.namespaces.network == Network::Node {
            return Ok(Attachment::default());
        }
        let dns = config.dns.clone().unwrap_or_default();
        let pod = Pod {
            id: sandbox.id.clone(),
            netns: sandbox.namespace_path("net"),
            name: config.name.clone(),
            namespace: config.namespace.clone(),
            uid: config.uid.clone(),
            ports: config.ports.iter().map(Into::into).collect(),
            annotations: config.annotations.clone().into_iter().collect::<BTreeMap<_, _>>(),
            cgroup: config.cgroup_parent.clone(),
            dns_servers: dns.servers,
            dns_searches: dns.searches,
            dns_options: dns.options,
        };
        let attached = self.network.attach(&pod).await;
        reach(Point::RunNetwork).await?;
        attached.map_err(|error| Fault::unavailable(error.to_string()))
    }

    /// Pid 1 of a pod whose containers share a pid namespace.
    async fn start_pod_init(&self, sandbox: &Sandbox) -> Result<Option<OwnedFd>> {
        if sandbox.config.namespaces.pid != Pid::Pod {
            return Ok(None);
        }
        let user = match &sandbox.config.user {
            Some(_) => Some(namespaces::open(&sandbox.dir, "user")?),
            None => None,
        };
        let cgroup = crate::plan::pod_cgroup(
            &self.host,
            &self.config.runtime.cgroup_parent,
            &sandbox.config,
            &sandbox.id,
        );
        // Held until the init is in it.
        let _place = self.start_scope(&sandbox.config, &sandbox.id, &cgroup).await?;
        let plan = PodInitPlan {
            user: user.is_some(),
            cgroup: Some(cgroup),
        };
        let user = user.as_ref().map(AsFd::as_fd);
        let (pid, pidfd) = self.launcher.create_pod_init(&sandbox.id, &plan, user).await?;
        // Between here and the record, the pidfd proves that the pid is still the same process.
        let start_time = criquet_sys::process::start_time(pid)
            .ok_or_else(|| Fault::unavailable(format!("the pod's init, pid {pid}, has ended")))?;
        sandbox.change(|record| record.pod_init = Some(PodInit { pid, start_time }));
        namespaces::pin_pid(&sandbox.dir, pid, &sandbox.id)?;
        criquet_sys::pidfd::signal(&pidfd, 0).or_internal(|| "looking after the pod's init".into())?;
        reach(Point::RunInit).await?;
        Ok(Some(pidfd))
    }
}

/// All that needs no network; gives the pod's host name.
fn prepare(sandbox: &Sandbox) -> Result<String> {
    let hostname = hostname(&sandbox.config, &sandbox.id)?;
    private_dir(&sandbox.dir)?;
    let logs = &sandbox.config.log_directory;
    if !logs.is_empty() {
        std::fs::create_dir_all(logs).or_internal(|| format!("making the pod's log folder {logs:?}"))?;
    }
    namespaces::make(&sandbox.dir, &sandbox.config, &hostname)?;
    reach_blocking(Point::RunNamespaces)?;
    files::make(&sandbox.files_dir(), &sandbox.config, &hostname)?;
    reach_blocking(Point::RunFiles)?;
    Ok(hostname)
}

/// The pod's host name, as it was asked for: its /etc/hostname is its containers' to write.
///
/// # Errors
/// The host's own name cannot be read.
pub fn hostname(config: &SandboxConfig, id: &str) -> Result<String> {
    if config.namespaces.network == Network::Node {
        return std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .or_internal(|| "reading the host's name".into());
    }
    Ok(if config.hostname.is_empty() {
        id::short(id).to_owned()
    } else {
        config.hostname.clone()
    })
}
