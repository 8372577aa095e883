//! Uses of layers that keep them on disk.

use std::sync::Arc;

use super::Store;
use crate::digest::Digest;
use crate::{Error, ErrorKind, Result};

/// Layers that stay while it lives.
#[derive(Debug)]
pub(crate) struct Hold {
    store: Arc<Store>,
    layers: Vec<Digest>,
    /// The image that a lease is of.
    image: Option<Digest>,
}

impl Hold {
    /// Wraps what is counted already.
    pub(super) fn taken(store: Arc<Store>, layers: Vec<Digest>, image: Option<Digest>) -> Self {
        Self { store, layers, image }
    }
}

impl Store {
    /// Holds a layer, if it is there.
    pub(crate) fn hold(self: &Arc<Self>, layer: &Digest) -> Option<Hold> {
        self.write().layers.get_mut(layer)?.holds += 1;
        Some(Hold::taken(self.clone(), vec![layer.clone()], None))
    }

    /// Holds the layers of an image, also of one that is removed and has other leases, or had before the start.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn lease(self: &Arc<Self>, name: &str) -> Result<Hold> {
        let mut state = self.write();
        let removed = || {
            name.parse::<Digest>()
                .ok()
                .and_then(|id| state.removed.get(&id).cloned())
        };
        let record = state.index.find(name).map(|(record, _)| record).or_else(removed);
        let record = record.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no image {name:?}")))?;
        for layer in &record.layers {
            if let Some(layer) = state.layers.get_mut(layer) {
                layer.holds += 1;
            }
        }
        *state.leases.entry(record.id.clone()).or_default() += 1;
        drop(state);
        Ok(Hold::taken(
            self.clone(),
            record.layers.clone(),
            Some(record.id.clone()),
        ))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.store.write();
        let mut is_last = false;
        for digest in &self.layers {
            if let Some(layer) = state.layers.get_mut(digest) {
                layer.holds = layer.holds.saturating_sub(1);
                is_last |= layer.holds == 0 && layer.images == 0;
            }
        }
        if let Some(image) = &self.image
            && let Some(count) = state.leases.get_mut(image)
        {
            *count -= 1;
            if *count == 0 {
                state.leases.remove(image);
                is_last |= state.removed.contains_key(image);
            }
        }
        drop(state);
        if is_last {
            self.store
                .reaper
                .collect(std::mem::take(&mut self.layers), self.image.take());
        }
    }
}
