//! CreateContainer: the request and the image become a plan, and a shim makes it up to execve.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use criquet_image::{Image, Lease};
use criquet_proto::shim::Plan;
use prost::Message;

use super::config::{ContainerConfig, Pid, Source};
use super::record::{Container, Phase, Record, State, User};
use crate::event::Kind as EventKind;
use crate::fault::{Fault, Kind, OrFault, Result};
use crate::fault_point::{Point, pass, reach, reach_blocking};
use crate::plan;
use crate::runtime::{Runtime, private_dir};
use crate::sandbox::config::{Ipc, Network, Pid as PodPid};
use crate::sandbox::namespaces;
use crate::sandbox::record::{Phase as SandboxPhase, Sandbox};
use crate::sandbox::run::hostname;
use crate::store::Table;
use crate::supervise::link::Link;
use crate::{id, supervise};

/// The plan in a container's state directory: what an exec takes its identity from.
pub const PLAN_NAME: &str = "plan";

/// The images that a container is made of.
struct Images {
    root: Arc<Image>,
    volumes: Vec<(String, Arc<Image>)>,
}

impl Runtime {
    /// Makes a container up to the execve of its program. A repeated request joins the attempt under way, or gets
    /// the container that it made.
    ///
    /// # Errors
    /// `NotFound`: the pod or an image. Else what could not be made; then nothing is left.
    pub async fn create_container(
        self: &Arc<Self>,
        sandbox: &str,
        config: ContainerConfig,
    ) -> Result<String> {
        let sandbox = self.sandboxes.get(sandbox)?;
        let key = format!("{}/{}/{}", sandbox.id, config.name, config.attempt);
        let runtime = Arc::clone(self);
        self.creates
            .run(key, move || async move {
                match runtime.same_container(&sandbox, &config)? {
                    Some(id) => Ok(id),
                    None => runtime.make_container(&sandbox, config).await,
                }
            })
            .await
    }

    /// The container that an earlier, identical request made.
    fn same_container(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Result<Option<String>> {
        let containers = self.containers_of(&sandbox.id);
        let named = |container: &&Arc<Container>| {
            container.with_record(|record| {
                (&record.config.name, record.config.attempt) == (&config.name, config.attempt)
            })
        };
        let Some(container) = containers.iter().find(named) else {
            return Ok(None);
        };
        if container.state() == State::Created && container.with_record(|record| record.config == *config) {
            return Ok(Some(container.id.clone()));
        }
        Err(Fault::already_exists(format!(
            "container {:?} attempt {} exists in this pod as {:?}: remove that one first, or count up the attempt",
            config.name, config.attempt, container.id
        )))
    }

    async fn make_container(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        config: ContainerConfig,
    ) -> Result<String> {
        if sandbox.phase() != SandboxPhase::Ready {
            return Err(Fault::failed_precondition(format!(
                "pod sandbox {:?} is not ready",
                id::short(&sandbox.id)
            )));
        }
        let (images, leases) = self.images_of(&config)?;
        let images = Arc::new(images);
        let id = self.mint()?;
        let name = config.name.clone();
        let record = Record {
            sandbox: sandbox.id.clone(),
            image_id: images.root.id.clone(),
            volume_images: images.volumes.iter().map(|(_, image)| image.id.clone()).collect(),
            created_at_ns: id::now_ns(),
            phase: Phase::Creating,
            user: User::default(),
            stop_signal: plan::stop_signal(&config, &images.root.config)?,
            config,
        };
        self.store
            .put(Table::Containers, &id, &record)
            .await
            .or_internal(|| "recording the container".into())?;
        let container = Arc::new(Container::new(
            id.clone(),
            record,
            Arc::clone(sandbox),
            self.container_dir(&id),
            self.container_root(&id),
            State::Created,
        ));
        if let Err(fault) = self.set_up_container(&container, &images).await {
            self.discard(&container).await;
            return Err(fault.while_doing(format!("making container {name:?}")));
        }
        container.keep_leases(leases);
        self.containers.insert(&id, Arc::clone(&container));
        // A pod that was stopped meanwhile did not see this container.
        if sandbox.phase() != SandboxPhase::Ready {
            self.remove_container(&id).await?;
            return Err(Fault::failed_precondition(format!(
                "pod sandbox {:?} was stopped",
                id::short(&sandbox.id)
            )));
        }
        pass(Point::CreateRecorded).await;
        self.events.tell(&sandbox.id, &id, EventKind::Created);
        Ok(id)
    }

    fn images_of(&self, config: &ContainerConfig) -> Result<(Images, Vec<Lease>)> {
        let find = |name: &str| {
            self.images
                .find(name)
                .ok_or_else(|| Fault::not_found(format!("image {name:?} is not on this host: pull it first")))
        };
        let root = find(&config.image)?;
        let mut leases = vec![self.lease(&root.id)?];
        let mut volumes = Vec::new();
        for mount in &config.mounts {
            if let Source::Image(volume) = &mount.source {
                let image = find(&volume.image)?;
                leases.push(self.lease(&image.id)?);
                volumes.push((volume.image.clone(), image));
            }
        }
        Ok((Images { root, volumes }, leases))
    }

    /// Keeps an image's layers on disk.
    ///
    /// # Errors
    /// The image is gone.
    pub fn lease(&self, image: &str) -> Result<Lease> {
        self.images
            .lease(image)
            .map_err(|error| Fault::not_found(error.to_string()))
    }

    async fn set_up_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        images: &Arc<Images>,
    ) -> Result<()> {
        reach(Point::CreateIntent).await?;
        let (runtime, own, layers) = (Arc::clone(self), Arc::clone(container), Arc::clone(images));
        // Reads the image's files, looks at devices, and compiles a profile that is new.
        let (plan, fds) = tokio::task::spawn_blocking(move || {
            private_dir(&own.dir)?;
            private_dir(&own.root)?;
            reach_blocking(Point::CreateFolders)?;
            let mut fds = Vec::new();
            let joined = runtime.joined_namespaces(&own, &mut fds)?;
            let plan = runtime.plan(&own, &layers, joined)?;
            std::fs::write(own.dir.join(PLAN_NAME), plan.encode_to_vec())
                .or_internal(|| "writing the plan".into())?;
            reach_blocking(Point::CreatePlan)?;
            Ok::<_, Fault>((plan, fds))
        })
        .await
        .or_internal(|| "making a plan".into())??;
        let cgroup = plan.cgroup.clone().unwrap_or_default();
        let place = self
            .start_scope(&container.sandbox.config, &container.id, &cgroup)
            .await?;
        let (link, _pid) = self.launcher.create(&plan, fds).await?;
        drop(place);
        reach(Point::CreateMade).await?;
        let process = plan.process.unwrap_or_default();
        let record = container.change(|record| {
            record.user = User {
                uid: process.uid,
                gid: process.gid,
                groups: process.groups,
            };
            record.phase = Phase::Created;
        });
        self.store
            .put(Table::Containers, &container.id, &record)
            .await
            .or_internal(|| "recording the container".into())?;
        container.keep_first(link);
        Ok(())
    }

    fn plan(&self, container: &Container, images: &Images, namespaces: plan::Joined) -> Result<Plan> {
        let sandbox = &container.sandbox;
        let files = sandbox.files_dir();
        let shm = match sandbox.config.namespaces.ipc {
            Ipc::Pod => files.join("shm"),
            Ipc::Node => "/dev/shm".into(),
        };
        let record = container.record();
        let hostname = hostname(&sandbox.config, &sandbox.id)?;
        plan::build(&plan::Inputs {
            id: &container.id,
            config: &record.config,
            sandbox: &sandbox.config,
            hostname: &hostname,
            hosts_file: &files.join("hosts"),
            hostname_file: &files.join("hostname"),
            resolv_conf_file: &files.join("resolv.conf"),
            shm: &shm,
            image: &images.root,
            volume_images: &images.volumes.iter().cloned().collect(),
            root: &container.root,
            state_dir: &container.dir,
            host: &self.host,
            cgroup_parent: &self.config.runtime.cgroup_parent,
            seccomp_dir: &self.config.runtime.seccomp_dir,
            namespaces,
        })
    }

    /// Opens the namespaces that a container joins; their places in `fds` go into the plan.
    fn joined_namespaces(&self, container: &Container, fds: &mut Vec<OwnedFd>) -> Result<plan::Joined> {
        let pod = &container.sandbox;
        let mut join = |kind: &str| -> Result<plan::Join> {
            fds.push(namespaces::open(&pod.dir, kind)?);
            // Index 0 is the plan itself.
            plan::Join::at(fds.len())
        };
        let network = match pod.config.namespaces.network {
            Network::Pod => join("net")?,
            Network::Node => plan::Join::Host,
        };
        let uts = match pod.config.namespaces.network {
            Network::Pod => join("uts")?,
            Network::Node => plan::Join::Host,
        };
        let ipc = match pod.config.namespaces.ipc {
            Ipc::Pod => join("ipc")?,
            Ipc::Node => plan::Join::Host,
        };
        let user = match pod.config.user {
            Some(_) => join("user")?,
            None => plan::Join::Host,
        };
        let pid = match container.with_record(|record| record.config.security.pid.clone()) {
            Pid::Pod if pod.config.namespaces.pid == PodPid::Pod => join("pid")?,
            Pid::Pod if pod.config.namespaces.pid == PodPid::Node => plan::Join::Host,
            Pid::Pod | Pid::Container => plan::Join::New,
            Pid::Node => plan::Join::Host,
            Pid::Target(target) => {
                fds.push(self.pid_namespace_of(&target, container)?);
                plan::Join::at(fds.len())?
            }
        };
        Ok(plan::Joined {
            network,
            ipc,
            uts,
            pid,
            user,
        })
    }

    fn pid_namespace_of(&self, target: &str, container: &Container) -> Result<OwnedFd> {
        let target = self.containers.get(target)?;
        if target.sandbox.id != container.sandbox.id {
            return Err(Fault::invalid(format!(
                "target container {:?} is in another pod",
                target.id
            )));
        }
        target.require_running("share the pid namespace of")?;
        let pid = target
            .pid()
            .ok_or_else(|| Fault::unavailable("the target container's pid is not known"))?;
        let namespace = namespaces::open_pid_of(pid, &target.id)?;
        // Had it ended meanwhile, the pid could have been anybody's.
        target.require_running("share the pid namespace of")?;
        Ok(namespace)
    }
}

/// What is said when a container's shim is gone, or does not answer.
pub(crate) fn gone(container: &Container, fault: &Fault) -> Fault {
    let id = id::short(&container.id);
    match fault.kind {
        Kind::NotFound => Fault::unavailable(format!("the shim of container {id:?} is gone: {fault}")),
        Kind::DeadlineExceeded => {
            Fault::deadline_exceeded(format!("the shim of container {id:?} does not answer: {fault}"))
        }
        _ => Fault::unavailable(format!("talking to the shim of container {id:?}: {fault}")),
    }
}

/// A connection to a container's shim.
///
/// # Errors
/// `Unavailable`: it is gone. `DeadlineExceeded`: it is stuck.
pub(crate) async fn connect(container: &Container) -> Result<Link> {
    supervise::link::Link::connect(&container.dir)
        .await
        .map_err(|fault| gone(container, &fault))
}
