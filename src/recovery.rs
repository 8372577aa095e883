//! The start is the recovery: read the records, find the shims again, finish what was half done, take away what
//! belongs to nobody. There is no other clean-up; an undo runs the same steps.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use criquet_proto::shim::{self, request, state};
use criquet_sys::signal::SIGKILL;
use futures_util::future::join_all;

use crate::container::record::{Container, Phase, Record, State};
use crate::container::start::lost;
use crate::event::Kind as EventKind;
use crate::fault::{OrFault, Result};
use crate::runtime::Runtime;
use crate::sandbox::record::{Phase as SandboxPhase, Record as SandboxRecord, Sandbox};
use crate::store::{Records, Table};
use crate::supervise::{self, link::Link};

/// A shim that does not answer by then is asked again in the background: one stuck shim delays no start.
const INSPECT_DEADLINE: Duration = Duration::from_millis(1500);
/// Between two questions to a stuck shim.
const INSPECT_PAUSE: Duration = Duration::from_secs(5);
/// A killed shim's container is gone by then.
const END_DEADLINE: Duration = Duration::from_secs(5);

impl Runtime {
    /// Brings back what the records and the shims say.
    ///
    /// # Errors
    /// The records cannot be read. A single broken object is told in the log and does not stop the start.
    pub async fn recover(self: &Arc<Self>, records: &Records) -> Result<()> {
        let sandboxes = records
            .load::<SandboxRecord>(Table::Sandboxes)
            .or_internal(|| "recovery".into())?;
        let containers = records
            .load::<Record>(Table::Containers)
            .or_internal(|| "recovery".into())?;
        let (pods, count) = (sandboxes.len(), containers.len());
        let mut condemned = Vec::new();
        for (id, record) in sandboxes {
            let gone = matches!(record.phase, SandboxPhase::Creating | SandboxPhase::Removing);
            let sandbox = Arc::new(Sandbox::new(id.clone(), record, self.sandbox_dir(&id)));
            if gone {
                condemned.push(Arc::clone(&sandbox));
            }
            self.sandboxes.insert(&id, sandbox);
        }
        join_all(
            containers
                .into_iter()
                .map(|(id, record)| self.recover_container(id, record)),
        )
        .await;
        join_all(
            self.sandboxes
                .all()
                .into_iter()
                .map(|sandbox| self.recover_sandbox(sandbox)),
        )
        .await;
        for sandbox in condemned {
            if let Err(fault) = self.remove_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = %sandbox.id, %fault, "a half-made or half-removed pod is not gone yet");
            }
        }
        self.remove_orphans().await;
        // Every lease is taken again: what no container uses may go.
        if let Err(error) = self.images.collect().await {
            tracing::warn!(%error, "leftovers of images could not be removed");
        }
        let live: Vec<String> = self
            .sandboxes
            .all()
            .iter()
            .filter(|sandbox| sandbox.phase() == SandboxPhase::Ready)
            .map(|sandbox| sandbox.id.clone())
            .collect();
        if let Err(error) = self.network.collect(&live).await {
            tracing::warn!(%error, "leftovers of pod networks could not be freed");
        }
        if pods + count > 0 {
            tracing::info!(pods, containers = count, "recovered");
        }
        Ok(())
    }

    /// After a reboot a pod's namespaces are gone: it is NotReady, and its address is given back.
    async fn recover_sandbox(self: &Arc<Self>, sandbox: Arc<Sandbox>) {
        let record = sandbox.record();
        if record.phase != SandboxPhase::Ready || (record.boot_id == self.boot_id && sandbox.dir.exists()) {
            return;
        }
        tracing::info!(sandbox = %sandbox.id, "the namespaces of a pod are gone; it is not ready");
        if let Err(fault) = self.stop_sandbox(&sandbox.id).await {
            tracing::warn!(sandbox = %sandbox.id, %fault, "a pod from before the restart is not stopped whole");
        }
    }

    async fn recover_container(self: &Arc<Self>, id: String, record: Record) {
        let Some(sandbox) = self.sandboxes.find(&record.sandbox) else {
            tracing::warn!(container = %id, sandbox = %record.sandbox, "a container without a pod is removed");
            let stand_in = Arc::new(Sandbox::new(
                record.sandbox.clone(),
                stand_in(),
                self.sandbox_dir(""),
            ));
            let container = self.adopt(id, record, stand_in, State::Created);
            self.take_away(&container).await;
            return;
        };
        let phase = record.phase.clone();
        let container = self.adopt(id, record, sandbox, State::Created);
        match phase {
            Phase::Creating | Phase::Removing => {
                self.take_away(&container).await;
                return;
            }
            Phase::Exited(ended) => {
                container.state.send_replace(State::Exited(ended));
            }
            Phase::Created => self.find_shim(&container).await,
        }
        self.lease_again(&container);
        let id = container.id.clone();
        self.containers.insert(&id, container);
    }

    fn adopt(&self, id: String, record: Record, sandbox: Arc<Sandbox>, state: State) -> Arc<Container> {
        let (dir, root) = (self.container_dir(&id), self.container_root(&id));
        Arc::new(Container::new(id, record, sandbox, dir, root, state))
    }

    async fn find_shim(self: &Arc<Self>, container: &Arc<Container>) {
        match tokio::time::timeout(INSPECT_DEADLINE, self.ask_shim(container)).await {
            Ok(()) => {}
            Err(_) => {
                tracing::warn!(container = %container.id, "a shim does not answer; its container counts as running");
                container
                    .state
                    .send_replace(State::Running { since_ns: 0, pid: 0 });
                let (runtime, container) = (Arc::clone(self), Arc::clone(container));
                tokio::spawn(async move {
                    while tokio::time::timeout(INSPECT_DEADLINE, runtime.ask_shim(&container))
                        .await
                        .is_err()
                    {
                        tokio::time::sleep(INSPECT_PAUSE).await;
                    }
                });
            }
        }
    }

    async fn ask_shim(self: &Arc<Self>, container: &Arc<Container>) {
        let answer = async {
            let state = supervise::inspect(&container.dir).await?;
            Link::connect(&container.dir).await.map(|link| (state, link))
        };
        match answer.await {
            Ok((state, link)) => match state.phase() {
                state::Phase::Created => {
                    container.state.send_replace(State::Created);
                    *container.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
                }
                state::Phase::Running | state::Phase::Exited => {
                    let running = State::Running {
                        since_ns: state.started_at_ns,
                        pid: state.pid,
                    };
                    container.state.send_replace(running);
                    self.watch(container, link);
                }
            },
            Err(_) => {
                let ended = match supervise::exit_record(&container.dir) {
                    Ok(Some(exit)) => exit.into(),
                    Ok(None) => lost("the host was restarted, or the shim was killed"),
                    Err(fault) => lost(&fault.message),
                };
                self.record_end(container, ended).await;
            }
        }
    }

    fn lease_again(&self, container: &Container) {
        let record = container.record();
        let mut leases = container.leases.lock().unwrap_or_else(PoisonError::into_inner);
        for image in std::iter::once(&record.image_id).chain(&record.volume_images) {
            match self.lease(image) {
                Ok(lease) => leases.push(lease),
                Err(fault) => {
                    tracing::warn!(container = %container.id, %fault, "the image of a container is gone")
                }
            }
        }
    }

    /// Ends and clears a container that must not be.
    async fn take_away(self: &Arc<Self>, container: &Arc<Container>) {
        let kill = request::Kind::Signal(shim::Signal {
            signal: SIGKILL,
            all: true,
        });
        if tokio::time::timeout(END_DEADLINE, supervise::tell(&container.dir, kill))
            .await
            .is_ok_and(|told| told.is_ok())
        {
            // Its end is the end of its shim; the connection closes then.
            if let Ok(link) = Link::connect(&container.dir).await {
                let ended = async { while let Ok(Some(_)) = link.receive().await {} };
                link.send(request::Kind::Wait(shim::Wait {}), &[]).await.ok();
                tokio::time::timeout(END_DEADLINE, ended).await.ok();
            }
        }
        let gone = match self.clear(container).await {
            Ok(()) => self.forget_container(container).await,
            Err(fault) => Err(fault),
        };
        match gone {
            Ok(()) => self
                .events
                .tell(&container.sandbox.id, &container.id, EventKind::Deleted),
            Err(fault) => tracing::warn!(container = %container.id, %fault, "a container is not gone yet"),
        }
    }

    /// Folders without a record: their creation did not get far enough to be known, or their record was lost.
    async fn remove_orphans(self: &Arc<Self>) {
        let known: HashSet<String> = self
            .containers
            .all()
            .iter()
            .map(|container| container.id.clone())
            .collect();
        for base in [
            self.config.state.join("containers"),
            self.config.root.join("containers"),
        ] {
            for id in names(&base) {
                if known.contains(&id) {
                    continue;
                }
                tracing::warn!(container = %id, "a container without a record is removed");
                let record = orphan();
                let sandbox = Arc::new(Sandbox::new(String::new(), stand_in(), self.sandbox_dir("")));
                let container = self.adopt(id, record, sandbox, State::Created);
                self.take_away(&container).await;
            }
        }
        for id in names(&self.config.state.join("sandboxes")) {
            if self.sandboxes.find(&id).is_none() {
                tracing::warn!(sandbox = %id, "a pod without a record is removed");
                let sandbox = Sandbox::new(id.clone(), stand_in(), self.sandbox_dir(&id));
                if let Err(fault) = self.dismantle(&sandbox).await {
                    tracing::warn!(sandbox = %id, %fault, "a pod is not gone yet");
                }
            }
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(std::result::Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// The record of a container of which only the id is known.
fn orphan() -> Record {
    Record {
        sandbox: String::new(),
        config: crate::container::config::ContainerConfig::default(),
        image_id: String::new(),
        volume_images: Vec::new(),
        created_at_ns: 0,
        phase: Phase::Removing,
        user: crate::container::record::User::default(),
        stop_signal: SIGKILL,
    }
}

/// The record of a pod of which nothing is known.
fn stand_in() -> SandboxRecord {
    SandboxRecord {
        config: crate::sandbox::config::SandboxConfig::default(),
        created_at_ns: 0,
        phase: SandboxPhase::Removing,
        attachment: criquet_network::Attachment::default(),
        pod_init: None,
        boot_id: String::new(),
    }
}
