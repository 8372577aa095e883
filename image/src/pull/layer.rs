//! One layer: the download feeds a thread that unpacks.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::blocking;
use crate::digest::Digest;
use crate::layer::Expected;
use crate::limits::DOWNLOAD_CHUNKS_MAX;
use crate::manifest::Descriptor;
use crate::registry::Remote;
use crate::store::{Hold, Store};
use crate::{Error, ErrorKind, Result};

/// Downloads and unpacks. When this is dropped, the thread sees the end of its input and removes what it made.
pub(super) async fn pull(
    store: Arc<Store>,
    remote: Remote,
    descriptor: Descriptor,
    diff_id: Digest,
) -> Result<Arc<Hold>> {
    check_media_type(&descriptor)?;
    let (sender, mut receiver) = mpsc::channel::<Bytes>(DOWNLOAD_CHUNKS_MAX);
    let expected = Expected {
        digest: Some(descriptor.digest.clone()),
        size: descriptor.size,
        diff_id,
    };
    let unpacking = blocking(move || store.add_layer(&expected, || Ok(receiver.blocking_recv())));
    let downloading = download(&remote, &descriptor, sender);
    let (downloaded, unpacked) = tokio::join!(downloading, unpacking);
    let named = |e: Error| Error::new(e.kind(), format!("layer {}: {e}", descriptor.digest));
    // Without all bytes the unpacking fails as well, but for no reason of its own.
    downloaded.map_err(named)?;
    unpacked.map(Arc::new).map_err(named)
}

async fn download(remote: &Remote, descriptor: &Descriptor, sender: mpsc::Sender<Bytes>) -> Result<()> {
    let mut blob = remote.blob(descriptor, 0).await?;
    while let Some(chunk) = blob.chunk().await? {
        if sender.send(chunk).await.is_err() {
            // The thread has failed, and says why.
            break;
        }
    }
    Ok(())
}

/// Which packing it is the bytes tell; that it is a layer at all only this.
fn check_media_type(descriptor: &Descriptor) -> Result<()> {
    let text = descriptor.media_type.as_str();
    let is_layer = text.starts_with("application/vnd.oci.image.layer.")
        || text.starts_with("application/vnd.docker.image.rootfs.");
    if is_layer && !text.ends_with("+encrypted") {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("layer {} is {text:?}, which is not supported", descriptor.digest),
    ))
}
