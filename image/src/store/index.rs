//! Images by all the names that they have.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::record::ImageRecord;
use crate::Image;
use crate::digest::Digest;
use crate::limits::ID_PREFIX_MIN;
use crate::reference::Reference;

type Entry = (Arc<ImageRecord>, Arc<Image>);

#[derive(Debug, Default)]
pub(super) struct Index {
    images: BTreeMap<Digest, Entry>,
    /// Tags and digests, normalised.
    names: HashMap<String, Digest>,
}

impl Index {
    /// Puts an image in, in place of what it was before.
    pub(super) fn insert(&mut self, record: Arc<ImageRecord>, image: Arc<Image>) {
        self.remove(&record.id);
        for name in record.tags.iter().chain(&record.digests) {
            self.names.insert(name.clone(), record.id.clone());
        }
        self.images.insert(record.id.clone(), (record, image));
    }

    pub(super) fn remove(&mut self, id: &Digest) {
        if self.images.remove(id).is_some() {
            self.names.retain(|_, owner| owner != id);
        }
    }

    pub(super) fn get(&self, id: &Digest) -> Option<Entry> {
        self.images.get(id).cloned()
    }

    pub(super) fn images(&self) -> Vec<Arc<Image>> {
        self.images.values().map(|(_, image)| image.clone()).collect()
    }

    /// Bytes of the records.
    pub(super) fn bytes(&self) -> u64 {
        let text =
            |record: &ImageRecord| record.config.len() + record.manifest.as_ref().map_or(0, String::len);
        self.images.values().map(|(record, _)| text(record) as u64).sum()
    }

    /// By reference in any form, by id, by a part of the id that is unique.
    pub(super) fn find(&self, name: &str) -> Option<Entry> {
        if let Ok(id) = name.parse::<Digest>() {
            return self.get(&id);
        }
        let by_name = name.parse::<Reference>().ok().and_then(|reference| {
            let id = self.names.get(&reference.to_string())?;
            self.get(id)
        });
        by_name.or_else(|| self.by_prefix(name.strip_prefix("sha256:").unwrap_or(name)))
    }

    fn by_prefix(&self, hex: &str) -> Option<Entry> {
        if hex.len() < ID_PREFIX_MIN || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut found = self.images.iter().filter(|(id, _)| id.hex().starts_with(hex));
        match (found.next(), found.next()) {
            (Some((_, entry)), None) => Some(entry.clone()),
            _ => None,
        }
    }

    /// The other images that have tags of `record`, without these.
    pub(super) fn without_tags(&self, record: &ImageRecord) -> Vec<ImageRecord> {
        let owners: std::collections::BTreeSet<_> = record
            .tags
            .iter()
            .filter_map(|tag| self.names.get(tag))
            .filter(|id| **id != record.id)
            .collect();
        let strip = |id| {
            let mut other = ImageRecord::clone(&self.images.get(id)?.0);
            other.tags.retain(|tag| !record.tags.contains(tag));
            Some(other)
        };
        owners.into_iter().filter_map(strip).collect()
    }
}
