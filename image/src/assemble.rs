//! From unpacked layers to an image.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::digest::Digest;
use crate::layer::Expected;
use crate::layer::implied::{self, Tree};
use crate::store::record::ImageRecord;
use crate::store::{Hold, Store};
use crate::{Error, ErrorKind, Image, Result};

/// An image whose layers are in the store.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: Bytes,
    pub(crate) manifest: Option<Bytes>,
    /// Base first, as the config has them.
    pub(crate) diff_ids: Vec<Digest>,
    /// Bytes of the packed layers and the config.
    pub(crate) size: u64,
    pub(crate) tags: Vec<String>,
    pub(crate) digests: Vec<String>,
}

/// Records the image; `holds` are on all of its layers. Blocks.
pub(crate) fn image(store: &Arc<Store>, parts: Parts, holds: &[Arc<Hold>]) -> Result<Arc<Image>> {
    let mut layers = stacked(parts.diff_ids);
    let correction = correct(store, &layers)?;
    if let Some((layer, _)) = &correction {
        layers.insert(0, layer.clone());
    }
    let text = |bytes: &Bytes, what: &str| {
        String::from_utf8(bytes.to_vec())
            .map_err(|e| Error::caused(ErrorKind::Invalid, format_args!("{what} is not UTF-8"), e))
    };
    let image = store.add_image(ImageRecord {
        id: Digest::of(&parts.config),
        config: text(&parts.config, "image configuration")?,
        manifest: parts.manifest.map(|bytes| text(&bytes, "manifest")).transpose()?,
        layers,
        size: parts.size,
        tags: parts.tags,
        digests: parts.digests,
    });
    tracing::trace!(holds = holds.len(), "layers are held by the image now");
    image
}

/// Topmost first. overlayfs takes no directory twice; of a layer that comes twice only the upper one shows.
fn stacked(diff_ids: Vec<Digest>) -> Vec<Digest> {
    let mut seen = BTreeSet::new();
    diff_ids
        .into_iter()
        .rev()
        .filter(|layer| seen.insert(layer.clone()))
        .collect()
}

/// The layer that sets owners and modes right which the layers for themselves could not know.
fn correct(store: &Arc<Store>, layers: &[Digest]) -> Result<Option<(Digest, Hold)>> {
    let tree = |layer| {
        let (root, implied) = store.tree(layer)?;
        Ok(Tree {
            root,
            implied: implied.into_iter().collect(),
        })
    };
    let trees = layers.iter().map(tree).collect::<Result<Vec<_>>>()?;
    let Some(archive) = implied::correction(&trees)? else {
        return Ok(None);
    };
    let expected = Expected {
        digest: None,
        size: archive.len() as u64,
        diff_id: Digest::of(&archive),
    };
    if let Some(hold) = store.hold(&expected.diff_id) {
        return Ok(Some((expected.diff_id, hold)));
    }
    let mut archive = Some(Bytes::from(archive));
    let hold = store.add_layer(&expected, || Ok(archive.take()))?;
    Ok(Some((expected.diff_id, hold)))
}
