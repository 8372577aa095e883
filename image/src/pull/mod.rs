//! From a registry to the store: layers are downloaded, verified and unpacked at once, each in one pass.

pub(crate) mod flight;
mod layer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};

use self::flight::Flights;
use crate::assemble::{self, Parts};
use crate::digest::{Digest, Hasher};
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::registry::{Registry, Remote};
use crate::store::{Hold, Store};
use crate::{Credentials, Error, ErrorKind, Image, Result};

/// Pulls images; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Puller {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    registry: Registry,
    downloads_max: usize,
    images: Flights<(Reference, Digest), Arc<Image>>,
    layers: Flights<Digest, Arc<Hold>>,
}

impl Puller {
    pub(crate) fn new(store: Arc<Store>, registry: Registry, downloads_max: usize) -> Self {
        let (images, layers) = (Flights::default(), Flights::default());
        Self {
            shared: Arc::new(Shared {
                store,
                registry,
                downloads_max: downloads_max.max(1),
                images,
                layers,
            }),
        }
    }

    /// Pulls an image; two at once of one name with the same credentials are one.
    ///
    /// # Errors
    /// Those of the registry, of the layers and of the disk; each names the reference.
    pub(crate) async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Arc<Image>> {
        let parsed: Reference = reference.parse()?;
        let key = (parsed.clone(), fingerprint(credentials.as_ref()));
        let start = || {
            let this = self.clone();
            let (reference, credentials) = (parsed.clone(), credentials.clone());
            async move { this.image(&reference, credentials.as_ref()).await }.boxed()
        };
        let pulled = self.shared.images.join(&key, start).await;
        pulled.map_err(|e| Error::new(e.kind(), format!("pull {parsed}: {e}")))
    }

    async fn image(&self, reference: &Reference, credentials: Option<&Credentials>) -> Result<Arc<Image>> {
        let start = Instant::now();
        let remote = self.shared.registry.resolve(reference, credentials).await?;
        remote.manifest.check_is_image()?;
        remote.config.check_layers(&remote.manifest)?;
        let holds = self.layers(&remote).await?;
        let parts = Parts {
            config: remote.config_bytes.clone(),
            manifest: Some(remote.manifest_bytes.clone()),
            diff_ids: remote.config.rootfs.diff_ids.clone(),
            size: remote.manifest.size(),
            tags: reference.with_tag().into_iter().collect(),
            digests: vec![reference.with_digest(&remote.digest)],
        };
        let store = self.shared.store.clone();
        let image = blocking(move || assemble::image(&store, parts, &holds)).await?;
        tracing::info!(%reference, id = image.id, bytes = image.size, elapsed = ?start.elapsed(), "image pulled");
        Ok(image)
    }

    /// All layers, some at once. The first error ends the others.
    async fn layers(&self, remote: &Remote) -> Result<Vec<Arc<Hold>>> {
        let mut wanted: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        let mut order = Vec::new();
        for (descriptor, diff_id) in remote.manifest.layers.iter().zip(&remote.config.rootfs.diff_ids) {
            if wanted.insert(diff_id.clone(), descriptor.clone()).is_none() {
                order.push(diff_id.clone());
            }
        }
        let pulls = order.into_iter().filter_map(|diff_id| {
            let descriptor = wanted.remove(&diff_id)?;
            Some(self.clone().layer(remote.clone(), descriptor, diff_id))
        });
        stream::iter(pulls)
            .buffer_unordered(self.shared.downloads_max)
            .try_collect()
            .await
    }

    /// Holds a layer, and downloads it first if need be.
    async fn layer(self, remote: Remote, descriptor: Descriptor, diff_id: Digest) -> Result<Arc<Hold>> {
        if let Some(hold) = self.shared.store.hold(&diff_id) {
            return Ok(Arc::new(hold));
        }
        let start = || {
            let (store, remote) = (self.shared.store.clone(), remote.clone());
            layer::pull(store, remote, descriptor.clone(), diff_id.clone()).boxed()
        };
        self.shared.layers.join_or_retry(&diff_id, start).await
    }
}

/// Pulls with different credentials must not share an attempt.
fn fingerprint(credentials: Option<&Credentials>) -> Digest {
    let mut hasher = Hasher::default();
    if let Some(c) = credentials {
        for part in [
            &c.username,
            &c.password,
            &c.identity_token,
            &c.registry_token,
            &c.server_address,
        ] {
            hasher.update(&part.len().to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    hasher.finish()
}

/// Runs what blocks where that does no harm. It runs to its end even when nobody waits any more.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::caused(
            ErrorKind::Internal,
            "working on the image store",
            error,
        )),
    }
}
