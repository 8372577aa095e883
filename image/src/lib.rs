//! Images: registry client, layers, content store.
//!
//! Knows nothing of the CRI: the daemon's `cri/` translates.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod assemble;
pub mod digest;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod layer;
mod lease;
mod limits;
mod load;
pub mod manifest;
pub mod platform;
mod pull;
pub mod reference;
pub mod registry;
mod store;
#[cfg(test)]
mod tests;
pub use error::{Error, ErrorKind, Result};
pub use lease::Lease;

use reference::Reference;

/// How images are kept and fetched.
#[derive(Debug, Clone)]
pub struct Options {
    /// Durable: blobs, layers, records. Made 0700.
    pub root: PathBuf,
    /// `certs.d`: `<host>/hosts.toml`, as containerd's. May be missing. Read at every pull.
    pub hosts_dir: PathBuf,
    /// Layers downloaded at once in one pull.
    pub downloads_max: usize,
    /// No byte for this long ends a download.
    pub stall_timeout: Duration,
    /// References that RemoveImage by garbage collection should spare: reported as `pinned`.
    pub pinned: Vec<String>,
}

/// What a pull may present to a registry; bound to the request and to scheme, host and port.
#[derive(Clone, Default)]
pub struct Credentials {
    /// User name of Basic auth.
    pub username: String,
    /// Password of Basic auth.
    pub password: String,
    /// OAuth2 refresh token.
    pub identity_token: String,
    /// A bearer token, sent as it is.
    pub registry_token: String,
    /// Where they belong; empty: the registry of the reference.
    pub server_address: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

/// One image, as of its record. Immutable.
#[derive(Debug, Clone)]
pub struct Image {
    /// `sha256:…` of the config blob.
    pub id: String,
    /// `docker.io/library/busybox:latest`, normalised.
    pub repo_tags: Vec<String>,
    /// `docker.io/library/busybox@sha256:…`.
    pub repo_digests: Vec<String>,
    /// Bytes of the compressed blobs and the config; never 0.
    pub size: u64,
    /// Never collected.
    pub pinned: bool,
    /// What containers take from it.
    pub config: ImageConfig,
    /// The unpacked layers, topmost first: host paths for overlayfs.
    pub layers: Vec<PathBuf>,
    /// The config blob as it came, for verbose answers.
    pub config_json: Arc<str>,
}

/// The part of the image configuration that a container starts from.
#[derive(Debug, Clone, Default)]
pub struct ImageConfig {
    /// `USER` as written: name or number, maybe `:group`.
    pub user: String,
    /// `NAME=VALUE`; malformed entries are left out.
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `WORKDIR`.
    pub working_dir: String,
    /// `STOPSIGNAL` as written.
    pub stop_signal: String,
    /// `VOLUME`s.
    pub volumes: Vec<String>,
    /// `LABEL`s: never control anything.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// What the store occupies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// All images of this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    store: Arc<store::Store>,
    puller: pull::Puller,
}

impl Images {
    /// Opens the store and finishes or undoes what a crash left half done.
    ///
    /// # Errors
    /// `Internal` when the disk or the database fails, or another process has the store; `Invalid` for
    /// `options` that cannot be.
    pub async fn open(options: Options) -> Result<Self> {
        let pinned = options
            .pinned
            .iter()
            .map(|name| name.parse::<Reference>())
            .collect::<Result<_>>()?;
        let registry = registry::Registry::new(options.hosts_dir, options.stall_timeout)?;
        let root = options.root;
        let store = pull::blocking(move || store::Store::open(&root, pinned)).await?;
        let puller = pull::Puller::new(store.clone(), registry, options.downloads_max);
        Ok(Self { store, puller })
    }

    /// Fetches `reference` (`busybox`, `registry.k8s.io/pause:3.9`, `x@sha256:…`). Two pulls of one image or
    /// layer are one. Dropping the future cancels it, unless another pull waits for the same thing.
    ///
    /// # Errors
    /// `Invalid`, `NotFound`, `Denied`, `Unavailable` or `Corrupt`, naming the reference; `Internal` for the disk.
    pub async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Arc<Image>> {
        self.puller.pull(reference, credentials).await
    }

    /// By reference in any form (short, tagged, digested), full id, `sha256:`-less id or unique id prefix of at
    /// least 4 characters.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Image>> {
        self.store.find(name)
    }

    /// All, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.store.list()
    }

    /// Removes the image that `name` denotes, with all its tags. Unknown: success. Layers that a
    /// [`Lease`] holds stay on disk until it is dropped.
    ///
    /// # Errors
    /// `Internal` when the database fails; the image is still there then.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let (store, name) = (self.store.clone(), name.to_owned());
        pull::blocking(move || store.remove_image(&name)).await
    }

    /// Keeps the layers of `id` on disk for a container that uses them. Taken again for each recorded
    /// container at start, before anything is collected; also of an image that was removed in the meantime.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn lease(&self, id: &str) -> Result<Lease> {
        self.store.lease(id).map(Lease::new)
    }

    /// Removes what only containers that are gone had kept. To be called when all leases are taken after the
    /// start; until then nothing of it is touched.
    ///
    /// # Errors
    /// `Internal` when the database fails.
    pub async fn collect(&self) -> Result<()> {
        let store = self.store.clone();
        pull::blocking(move || store.collect_removed()).await
    }

    /// Reads an OCI or docker archive (plain or compressed tar) and records its images under their names.
    ///
    /// # Errors
    /// `Invalid` for what is none, `Corrupt` for content that is not what it says, `Internal` for the disk.
    pub async fn load(&self, archive: std::fs::File) -> Result<Vec<Arc<Image>>> {
        let store = self.store.clone();
        pull::blocking(move || load::load(&store, archive)).await
    }

    /// Disk use of the store, as it was counted when layers were unpacked.
    ///
    /// # Errors
    /// None so far.
    #[allow(clippy::unused_async)]
    pub async fn usage(&self) -> Result<Usage> {
        Ok(self.store.usage())
    }
}
