//! The start is the recovery: read the records, find the shims again, finish what was half done, take away what
//! belongs to nobody. There is no other clean-up; an undo runs the same steps.
//!
//! Nothing here waits long for one shim or one network: what is slow goes on while requests are served, and what must
//! not be used any more is marked before that.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use criquet_proto::shim::state;
use criquet_sys::signal::SIGKILL;
use futures_util::future::join_all;

use crate::container::record::{Container, Phase, Record, State};
use crate::container::stop::kill_processes;
use crate::event::Kind as EventKind;
use crate::fault::{OrFault, Result};
use crate::runtime::Runtime;
use crate::sandbox::record::{Phase as SandboxPhase, Record as SandboxRecord, Sandbox};
use crate::store::{Records, Table};
use crate::supervise::{self, Answer};

/// A shim that does not answer by then is asked again in the background: one stuck shim delays no start.
const INSPECT_DEADLINE: Duration = Duration::from_secs(1);
/// Before the second question to a stuck shim: it may just have been waiting for a busy machine.
const INSPECT_PAUSE: Duration = Duration::from_millis(100);
/// Between two questions to a shim that stays stuck.
const INSPECT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Taking away is waited for so long: what a crash leaves is gone in milliseconds, but for a network's plugin or a
/// disk that hangs.
const CLEANUP_PATIENCE: Duration = Duration::from_millis(700);

/// What is to be taken away, or to be finished.
#[derive(Default)]
struct Remains {
    /// Half made or half removed.
    containers: Vec<Arc<Container>>,
    /// Half made, half stopped or half removed.
    sandboxes: Vec<Arc<Sandbox>>,
    /// Ids that only folders know.
    lost_containers: HashSet<String>,
    lost_sandboxes: HashSet<String>,
}

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
        let mut remains = self.unknown_folders(&sandboxes, &containers);
        for (id, record) in sandboxes {
            let sandbox = Arc::new(Sandbox::new(id.clone(), record, self.sandbox_dir(&id)));
            self.sandboxes.insert(&id, Arc::clone(&sandbox));
            if !self.recover_sandbox(&sandbox).await {
                remains.sandboxes.push(sandbox);
            }
        }
        let recovered = join_all(
            containers
                .into_iter()
                .map(|(id, record)| self.recover_container(id, record)),
        );
        remains.containers.extend(recovered.await.into_iter().flatten());
        let runtime = Arc::clone(self);
        let cleanup = tokio::spawn(async move { runtime.clean_up(remains).await });
        if tokio::time::timeout(CLEANUP_PATIENCE, cleanup).await.is_err() {
            tracing::warn!(
                "what an earlier daemon left takes long to take away; that goes on beside the requests"
            );
        }
        if pods + count > 0 {
            tracing::info!(pods, containers = count, "recovered");
        }
        Ok(())
    }

    /// Whether a pod is as it should be. After a reboot its namespaces are gone: it is not ready, and its address is
    /// to be given back.
    async fn recover_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> bool {
        let record = sandbox.record();
        match record.phase {
            SandboxPhase::NotReady => return true,
            SandboxPhase::Creating | SandboxPhase::Stopping | SandboxPhase::Removing => return false,
            SandboxPhase::Ready => {}
        }
        if record.boot_id != self.boot_id || !sandbox.dir.exists() {
            tracing::info!(sandbox = %sandbox.id, "the namespaces of a pod are gone; it is not ready");
            sandbox.change(|record| record.phase = SandboxPhase::Stopping);
            return false;
        }
        let Some(init) = record.pod_init else { return true };
        match criquet_sys::pidfd::open(init.pid) {
            // Opened first, compared second: the descriptor cannot change its process any more.
            Ok(pidfd) if criquet_sys::process::start_time(init.pid) == Some(init.start_time) => {
                self.watch_pod_init(sandbox, pidfd);
            }
            _ => self.lose_pod_init(sandbox).await,
        }
        true
    }

    /// Makes a container known again, or gives it back to be taken away.
    async fn recover_container(self: &Arc<Self>, id: String, record: Record) -> Option<Arc<Container>> {
        let Some(sandbox) = self.sandboxes.find(&record.sandbox) else {
            tracing::warn!(container = %id, sandbox = %record.sandbox, "a container without a pod is removed");
            return Some(self.adopt(id, record, nobody()));
        };
        let phase = record.phase.clone();
        let container = self.adopt(id, record, sandbox);
        match phase {
            Phase::Creating | Phase::Removing => return Some(container),
            Phase::Exited(ended) => container.enter(State::Exited(ended)),
            Phase::Created => self.find_shim(&container).await,
        }
        self.lease_again(&container);
        self.containers.insert(&container.id, Arc::clone(&container));
        None
    }

    fn adopt(&self, id: String, record: Record, sandbox: Arc<Sandbox>) -> Arc<Container> {
        let (dir, root) = (self.container_dir(&id), self.container_root(&id));
        Arc::new(Container::new(id, record, sandbox, dir, root, State::Created))
    }

    async fn find_shim(self: &Arc<Self>, container: &Arc<Container>) {
        if self.ask_shim(container).await {
            return;
        }
        tracing::warn!(container = %container.id, "a shim does not answer; its container counts as running");
        container.enter(presumed_running(container));
        let (runtime, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            let mut pause = INSPECT_PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                if runtime.ask_shim(&container).await {
                    break;
                }
                pause = (pause * 2).min(INSPECT_PAUSE_MAX);
            }
        });
    }

    /// Whether it is now known how a container is.
    async fn ask_shim(self: &Arc<Self>, container: &Arc<Container>) -> bool {
        match supervise::inspect(&container.dir, INSPECT_DEADLINE).await {
            Answer::State(state, link) => match state.phase() {
                state::Phase::Created => {
                    container.enter(State::Created);
                    container.keep_first(link);
                }
                state::Phase::Running | state::Phase::Exited => {
                    container.enter(State::Running {
                        since_ns: state.started_at_ns,
                        pid: state.pid,
                    });
                    self.watch(container, link);
                }
            },
            Answer::Gone => {
                container.enter(presumed_running(container));
                let why = "the host was restarted, or its shim was killed, while no daemon watched";
                let ended = self.end_without_shim(container, why).await;
                self.record_end(container, ended).await;
            }
            Answer::Stuck(fault) => {
                tracing::debug!(container = %container.id, %fault, "a shim does not answer");
                return false;
            }
        }
        true
    }

    fn lease_again(&self, container: &Container) {
        let record = container.record();
        let mut leases = Vec::new();
        for image in std::iter::once(&record.image_id).chain(&record.volume_images) {
            match self.lease(image) {
                Ok(lease) => leases.push(lease),
                Err(fault) => {
                    tracing::warn!(container = %container.id, %fault, "the image of a container is gone");
                }
            }
        }
        container.keep_leases(leases);
    }

    /// Folders without a record: their creation did not get far enough to be known, or their record was lost. To be
    /// listed before anything new is made.
    fn unknown_folders(
        &self,
        sandboxes: &[(String, SandboxRecord)],
        containers: &[(String, Record)],
    ) -> Remains {
        let (root, state) = (&self.config.root, &self.config.state);
        let known: HashSet<&String> = containers.iter().map(|(id, _)| id).collect();
        let folders = names(&state.join("containers")).chain(names(&root.join("containers")));
        let lost_containers = folders.filter(|id| !known.contains(id)).collect();
        let known: HashSet<&String> = sandboxes.iter().map(|(id, _)| id).collect();
        let lost_sandboxes = names(&state.join("sandboxes"))
            .filter(|id| !known.contains(id))
            .collect();
        Remains {
            lost_containers,
            lost_sandboxes,
            ..Remains::default()
        }
    }

    async fn clean_up(self: &Arc<Self>, remains: Remains) {
        join_all(
            remains
                .containers
                .iter()
                .map(|container| self.take_away(container)),
        )
        .await;
        join_all(remains.lost_containers.into_iter().map(|id| async move {
            tracing::warn!(container = %id, "a container without a record is removed");
            self.take_away(&self.adopt(id, orphan(), nobody())).await;
        }))
        .await;
        join_all(remains.sandboxes.iter().map(|sandbox| self.finish(sandbox))).await;
        join_all(
            remains
                .lost_sandboxes
                .into_iter()
                .map(|id| self.remove_lost_sandbox(id)),
        )
        .await;
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
        tracing::debug!("what an earlier daemon left is taken away");
    }

    async fn take_away(self: &Arc<Self>, container: &Arc<Container>) {
        self.discard(container).await;
        self.events
            .tell(&container.sandbox.id, &container.id, EventKind::Deleted);
    }

    /// Goes on where a pod's making, stop or removal was cut off. What does not work now is tried again by whoever
    /// stops or removes the pod.
    async fn finish(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let done = match sandbox.phase() {
            SandboxPhase::Creating => match kill_processes(&sandbox.id).await {
                Ok(()) => self.remove_sandbox(&sandbox.id).await,
                Err(fault) => Err(fault),
            },
            SandboxPhase::Removing => self.remove_sandbox(&sandbox.id).await,
            SandboxPhase::Ready | SandboxPhase::Stopping | SandboxPhase::NotReady => {
                self.stop_sandbox(&sandbox.id).await
            }
        };
        if let Err(fault) = done {
            tracing::warn!(sandbox = %sandbox.id, %fault, "a pod that was half made, stopped or removed is not done with");
        }
    }

    async fn remove_lost_sandbox(self: &Arc<Self>, id: String) {
        tracing::warn!(sandbox = %id, "a pod without a record is removed");
        let sandbox = Sandbox::new(id.clone(), stand_in(), self.sandbox_dir(&id));
        let gone = match kill_processes(&id).await {
            Ok(()) => self.dismantle(&sandbox).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = gone {
            tracing::warn!(sandbox = %id, %fault, "a pod is not gone yet");
        }
    }
}

/// What is told of a container while its shim says nothing.
fn presumed_running(container: &Container) -> State {
    State::Running {
        since_ns: container.with_record(|record| record.created_at_ns),
        pid: 0,
    }
}

fn names(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
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

/// The pod of a container whose pod is not known.
fn nobody() -> Arc<Sandbox> {
    Arc::new(Sandbox::new(String::new(), stand_in(), PathBuf::new()))
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
