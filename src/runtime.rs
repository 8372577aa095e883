//! The runtime as a whole: what every operation needs, and the objects that exist.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use criquet_image::Images;
use criquet_network::Network;
use criquet_sys::namespace::{self, IdMap, Kinds, Maps};

use crate::config::{CgroupDriver, Config};
use crate::container::record::Container;
use crate::event::Events;
use crate::fault::{Fault, Kind, OrFault, Result};
use crate::id;
use crate::joined::Joined;
use crate::plan::host::HostFacts;
use crate::sandbox::record::Sandbox;
use crate::store::Store;
use crate::supervise::Launcher;
use crate::systemd;

/// A prefix of an id that denotes an object has at least so many digits.
const ID_PREFIX_MIN: usize = 6;

/// overlayfs accepts idmapped layers since then.
const OVERLAY_IDMAP_KERNEL: (u32, u32) = (5, 19);

/// The objects of one kind, by id.
#[derive(Debug)]
pub struct Registry<T> {
    kind: &'static str,
    objects: RwLock<HashMap<String, Arc<T>>>,
}

impl<T> Registry<T> {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            objects: RwLock::default(),
        }
    }

    /// The object with this id, or with the only id that starts so.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<T>> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(object) = objects.get(name) {
            return Some(Arc::clone(object));
        }
        if name.len() < ID_PREFIX_MIN {
            return None;
        }
        let mut matching = objects.iter().filter(|(id, _)| id.starts_with(name));
        let (_, object) = matching.next()?;
        matching.next().is_none().then(|| Arc::clone(object))
    }

    /// As [`Registry::find`].
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, name: &str) -> Result<Arc<T>> {
        self.find(name)
            .ok_or_else(|| Fault::not_found(format!("{} {name:?} does not exist", self.kind)))
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<T>> {
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Makes an object known.
    pub fn insert(&self, id: &str, object: Arc<T>) {
        self.objects
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.to_owned(), object);
    }

    /// Forgets an object.
    pub fn remove(&self, id: &str) {
        self.objects
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }
}

/// All that operations work on.
#[derive(Debug)]
pub struct Runtime {
    /// As read at start.
    pub config: Config,
    /// What the host can do, as found at start.
    pub host: HostFacts,
    /// Durable records.
    pub store: Store,
    /// Images.
    pub images: Images,
    /// Pod networks.
    pub network: Network,
    /// Starts shims.
    pub launcher: Launcher,
    /// Tells what happened.
    pub events: Events,
    /// Pods.
    pub sandboxes: Registry<Sandbox>,
    /// Containers.
    pub containers: Registry<Container>,
    /// RunPodSandbox calls under way, by the pod's identity.
    pub runs: Joined<String>,
    /// CreateContainer calls under way, by the container's identity.
    pub creates: Joined<String>,
    /// Pods can have user namespaces here: overlayfs takes idmapped layers, and so does the root's file system.
    pub user_namespaces: bool,
    /// This boot of the host.
    pub boot_id: String,
    /// One daemon a root folder: held as long as this lives.
    _lock: std::fs::File,
}

impl Runtime {
    /// Opens everything and recovers what an earlier daemon left: see [`crate::recovery`].
    ///
    /// # Errors
    /// A folder, the shim or a store cannot be used, or another daemon uses the same root.
    pub async fn open(mut config: Config) -> Result<Arc<Self>> {
        crate::fault_point::check()?;
        config
            .runtime
            .settle(systemd::is_running())
            .or_fault(Kind::FailedPrecondition, || "choosing the cgroup driver".into())?;
        if config.runtime.cgroup_driver == CgroupDriver::Systemd {
            systemd::check().await?;
        }
        for dir in [&config.root, &config.state] {
            private_dir(dir)?;
        }
        let lock = lock(&config.root)?;
        for dir in [
            config.root.join("containers"),
            config.state.join("sandboxes"),
            config.state.join("containers"),
        ] {
            private_dir(&dir)?;
        }
        let launcher = Launcher::load(&shim_path(&config)?)?;
        let (store, records) =
            Store::open(&config.root.join("state.redb")).or_internal(|| "opening the store".into())?;
        let images = open_images(&config).await?;
        let network = Network::open(criquet_network::Options {
            conf_dir: config.network.conf_dir.clone(),
            bin_dirs: config.network.bin_dirs.clone(),
            cache_dir: config.root.join("network"),
            lease_dir: config.network.lease_dir.clone(),
            builtin: config.network.builtin.enabled.then(|| criquet_network::Builtin {
                bridge: config.network.builtin.bridge.clone(),
                subnet: config.network.builtin.subnet,
            }),
            native: config.network.native,
        })
        .or_internal(|| "opening the network".into())?;
        // Before the host is looked at: what is loaded is a fact of it.
        crate::apparmor::load_default();
        let runtime = Arc::new(Self {
            host: HostFacts::detect(&config.root)?,
            user_namespaces: user_namespaces(&config.root),
            boot_id: boot_id()?,
            store,
            images,
            network,
            launcher,
            events: Events::default(),
            sandboxes: Registry::new("pod sandbox"),
            containers: Registry::new("container"),
            runs: Joined::default(),
            creates: Joined::default(),
            _lock: lock,
            config,
        });
        // After it was looked at. A shim's connection and a session are descriptors; containers keep what there was.
        if let Err(error) = criquet_sys::limit::raise_open_files() {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
        crate::plan::seccomp::warm_up(&runtime.host)?;
        runtime.recover(&records).await?;
        Ok(runtime)
    }

    /// Volatile files of a sandbox.
    #[must_use]
    pub fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.config.state.join("sandboxes").join(id)
    }

    /// Volatile files of a container.
    #[must_use]
    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.config.state.join("containers").join(id)
    }

    /// Durable files of a container.
    #[must_use]
    pub fn container_root(&self, id: &str) -> PathBuf {
        self.config.root.join("containers").join(id)
    }

    /// The containers of a sandbox.
    #[must_use]
    pub fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers
            .all()
            .into_iter()
            .filter(|container| container.sandbox.id == sandbox)
            .collect()
    }

    /// The default cgroup parent, when nothing is in it: a stopped daemon without containers leaves no cgroup.
    pub fn remove_empty_parent(&self) {
        if self.config.runtime.cgroup_driver == CgroupDriver::Systemd {
            // A slice is systemd's.
            return;
        }
        for hierarchy in &self.host.cgroup.hierarchies {
            let parent = self.config.runtime.cgroup_parent.trim_matches('/');
            if !parent.is_empty() {
                // Not empty, or not there: as it should be.
                std::fs::remove_dir(hierarchy.mount.join(parent)).ok();
            }
        }
    }

    /// A new id.
    ///
    /// # Errors
    /// The kernel gave no random bytes.
    pub fn mint(&self) -> Result<String> {
        id::mint().or_internal(|| "making an id".into())
    }
}

async fn open_images(config: &Config) -> Result<Images> {
    Images::open(criquet_image::Options {
        root: config.root.join("images"),
        hosts_dir: config.image.hosts_dir.clone(),
        downloads_max: config.image.downloads,
        stall_timeout: Duration::from_secs(config.image.stall_timeout_s),
        pinned: config.image.pinned.clone(),
    })
    .await
    .or_internal(|| "opening the image store".into())
}

/// The shim's program.
///
/// # Errors
/// The daemon's own program cannot be found.
pub fn shim_path(config: &Config) -> Result<PathBuf> {
    if !config.runtime.shim.as_os_str().is_empty() {
        return Ok(config.runtime.shim.clone());
    }
    let daemon = std::env::current_exe().or_internal(|| "finding the daemon's own program".into())?;
    Ok(daemon.with_file_name("criquet-shim"))
}

/// Makes a folder that only root can enter; one that was more open is closed (CVE-2021-41103).
///
/// # Errors
/// It cannot be made or its mode not set.
pub fn private_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let doing = || format!("making the folder {dir:?}");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .or_internal(doing)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).or_internal(doing)
}

fn lock(root: &Path) -> Result<std::fs::File> {
    let path = root.join("lock");
    let file = std::fs::File::create(&path).or_internal(|| format!("opening {path:?}"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Fault::failed_precondition(format!(
            "another criquet already uses {root:?}: stop it, or set another root and state"
        ))),
        Err(std::fs::TryLockError::Error(error)) => Err(error).or_internal(|| format!("locking {path:?}")),
    }
}

/// Tried, not derived from a version: a file system can lack idmapped mounts on any kernel.
fn user_namespaces(root: &Path) -> bool {
    const IDS: [IdMap; 1] = [IdMap {
        container: 0,
        host: 100_000,
        length: 1,
    }];
    let maps = Maps {
        uids: IDS.to_vec(),
        gids: IDS.to_vec(),
    };
    let made = namespace::create(Kinds::default(), Some(&maps));
    let overlay = HostFacts::detect(root).is_ok_and(|host| host.kernel >= OVERLAY_IDMAP_KERNEL);
    overlay
        && made.is_ok_and(|made| {
            made.user
                .is_some_and(|user| criquet_sys::mount::can_map_ids(root, user))
        })
}

fn boot_id() -> Result<String> {
    // A test cannot restart the machine.
    #[cfg(debug_assertions)]
    if let Ok(id) = std::env::var("CRIQUET_BOOT_ID") {
        return Ok(id);
    }
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .or_internal(|| "reading the boot id".into())
}
