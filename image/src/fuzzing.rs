//! What a registry's and an administrator's bytes go through, for the fuzzers. Nothing here is for use.

use std::io::Read as _;

use crate::layer::tar::Archive;
use crate::manifest::{Document, ImageConfigFile, Manifest};
use crate::reference::Reference;
use crate::registry;

/// A layer's tar.
pub fn tar(bytes: &[u8]) {
    let mut archive = Archive::new(bytes);
    while let Ok(Some(entry)) = archive.next_entry() {
        let mut data = Vec::new();
        if archive.by_ref().take(entry.size).read_to_end(&mut data).is_err() {
            return;
        }
        assert!(data.len() <= bytes.len(), "data from nowhere");
    }
}

/// Names of images, manifests, indexes, configurations, hosts.toml.
pub fn names(bytes: &[u8]) {
    drop(Manifest::parse(bytes, None));
    drop(Document::parse(bytes, None));
    if let Ok(config) = ImageConfigFile::parse(bytes) {
        drop(config.container_config());
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    registry::read_hosts(text);
    if let Ok(reference) = text.parse::<Reference>() {
        // What we print, we understand, and it is the same.
        let shown = reference.with_tag().unwrap_or_else(|| reference.name());
        assert!(shown.parse::<Reference>().is_ok(), "{text:?} became {shown:?}");
    }
}
