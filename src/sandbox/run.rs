//! RunPodSandbox: namespaces, files, network. Nothing here is a process, unless the pod shares a pid namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use criquet_network::{Attachment, Pod};
use criquet_proto::shim::PodInit as PodInitPlan;

use super::config::{Network, Pid, SandboxConfig};
use super::record::{Phase, PodInit, Record, Sandbox};
use super::{files, namespaces};
use crate::event::Kind as EventKind;
use crate::fault::{Fault, OrFault, Result};
use crate::id;
use crate::runtime::{Runtime, private_dir};
use crate::store::Table;

impl Runtime {
    /// Makes a pod. A repeated request joins the attempt under way, or gets the pod that it made.
    ///
    /// # Errors
    /// The configuration asks for what this host cannot give, or a step failed; then nothing is left.
    pub async fn run_sandbox(self: &Arc<Self>, config: SandboxConfig) -> Result<String> {
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
        match self.set_up(&sandbox).await {
            Ok(()) => {}
            Err(fault) => {
                if let Err(undo) = self.dismantle(&sandbox).await {
                    tracing::warn!(sandbox = %id, error = %undo, "a failed pod could not be taken back whole; the next start goes on with it");
                } else {
                    self.store
                        .remove(Table::Sandboxes, &id)
                        .await
                        .or_internal(|| "forgetting the pod".into())?;
                }
                let SandboxConfig { namespace, name, .. } = &sandbox.config;
                return Err(fault.while_doing(format!("making pod {namespace}/{name}")));
            }
        }
        self.sandboxes.insert(&id, Arc::clone(&sandbox));
        self.events.tell(&id, &id, EventKind::Created);
        self.events.tell(&id, &id, EventKind::Started);
        Ok(id)
    }

    async fn set_up(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let hostname = hostname(&sandbox.config, &sandbox.id)?;
        private_dir(&sandbox.dir)?;
        let logs = &sandbox.config.log_directory;
        if !logs.is_empty() {
            std::fs::create_dir_all(logs).or_internal(|| format!("making the pod's log folder {logs:?}"))?;
        }
        let work = (Arc::clone(sandbox), hostname.clone());
        // Mounts and namespaces block; the pod's network needs them.
        tokio::task::spawn_blocking(move || {
            let (sandbox, hostname) = work;
            namespaces::make(&sandbox.dir, &sandbox.config, &hostname)?;
            files::make(&sandbox.files_dir(), &sandbox.config, &hostname)
        })
        .await
        .or_internal(|| "making namespaces".into())??;
        let (attachment, pod_init) = tokio::try_join!(self.attach(sandbox), self.start_pod_init(sandbox))?;
        files::make_hosts(&sandbox.files_dir(), &sandbox.config, &hostname, &attachment)?;
        let record = sandbox.change(|record| {
            record.attachment = attachment;
            record.pod_init = pod_init;
            record.phase = Phase::Ready;
        });
        self.store
            .put(Table::Sandboxes, &sandbox.id, &record)
            .await
            .or_internal(|| "recording the pod".into())
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
        self.network
            .attach(&pod)
            .await
            .map_err(|error| Fault::unavailable(error.to_string()))
    }

    /// Pid 1 of a pod whose containers share a pid namespace.
    async fn start_pod_init(&self, sandbox: &Sandbox) -> Result<Option<PodInit>> {
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
        let (pid, pidfd) = self
            .launcher
            .create_pod_init(&plan, user.as_ref().map(std::os::fd::AsFd::as_fd))
            .await?;
        // Between here and the record, the pidfd proves that the pid is still the same process.
        let start_time = criquet_sys::process::start_time(pid)
            .ok_or_else(|| Fault::unavailable(format!("the pod's init, pid {pid}, has ended")))?;
        namespaces::pin_pid(&sandbox.dir, pid)?;
        criquet_sys::pidfd::signal(&pidfd, 0).or_internal(|| "looking after the pod's init".into())?;
        Ok(Some(PodInit { pid, start_time }))
    }
}

fn hostname(config: &SandboxConfig, id: &str) -> Result<String> {
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
