//! `index.json` and `blobs/`: OCI image specification, `image-layout.md`.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Found, Parts, invalid, reference};
use crate::digest::Digest;
use crate::layer::Expected;
use crate::limits::INDEX_DEPTH_MAX;
use crate::load::member::Members;
use crate::manifest::{Descriptor, Document, ImageConfigFile, Index, Manifest};
use crate::platform;
use crate::{Error, ErrorKind, Result};

/// The whole name, as containerd writes it.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// The whole name or only a tag, as others do.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image for each entry of the index that is for this machine; entries of one image become one with all names.
pub(super) fn images(members: &Members) -> Result<Vec<Found>> {
    let Document::Index(index) = Document::parse(&members.document("index.json")?, None)? else {
        return Err(invalid("its index.json is no index"));
    };
    let mut images: Vec<Found> = Vec::new();
    let mut by_config: HashMap<Bytes, usize> = HashMap::new();
    for descriptor in index.manifests {
        let (name, digest) = (name(&descriptor), descriptor.digest.clone());
        let Some((manifest, bytes)) = for_this_machine(members, descriptor)? else {
            continue;
        };
        let mut found = image(members, &manifest, bytes)?;
        if let Some(name) = name {
            let name = reference(&name)?;
            found.parts.tags.extend(name.with_tag());
            found.parts.digests.push(name.with_digest(&digest));
        }
        match by_config.get(&found.parts.config) {
            Some(at) => {
                images[*at].parts.tags.append(&mut found.parts.tags);
                images[*at].parts.digests.append(&mut found.parts.digests);
            }
            None => {
                by_config.insert(found.parts.config.clone(), images.len());
                images.push(found);
            }
        }
    }
    Ok(images)
}

fn name(descriptor: &Descriptor) -> Option<String> {
    let annotation = |key| {
        descriptor
            .annotations
            .get(key)
            .filter(|value| !value.is_empty())
            .cloned()
    };
    annotation(IMAGE_NAME).or_else(|| annotation(REF_NAME))
}

/// The manifest that `descriptor` leads to; none when it is for other machines.
fn for_this_machine(members: &Members, descriptor: Descriptor) -> Result<Option<(Manifest, Bytes)>> {
    let mut index = Index {
        manifests: vec![descriptor],
    };
    for _ in 0..INDEX_DEPTH_MAX {
        let descriptor = match platform::choose(&index) {
            Ok(descriptor) => descriptor.clone(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let bytes = blob(members, &descriptor.digest, descriptor.size)?;
        match Document::parse(&bytes, Some(&descriptor.media_type))? {
            Document::Index(inner) => index = inner,
            Document::Manifest(manifest) => return Ok(Some((manifest, bytes))),
        }
    }
    Err(invalid("its indexes are nested too deep"))
}

fn image(members: &Members, manifest: &Manifest, bytes: Bytes) -> Result<Found> {
    manifest.check_is_image()?;
    let config = blob(members, &manifest.config.digest, manifest.config.size)?;
    let file = ImageConfigFile::parse(&config)?;
    file.check_layers(manifest)?;
    let diff_ids = file.rootfs.diff_ids;
    let mut layers = Vec::new();
    for (descriptor, diff_id) in manifest.layers.iter().zip(&diff_ids) {
        let digest = Some(descriptor.digest.clone());
        let expected = Expected {
            digest,
            size: descriptor.size,
            diff_id: diff_id.clone(),
        };
        layers.push((members.span(&path(&descriptor.digest))?, expected));
    }
    let parts = Parts {
        config,
        manifest: Some(bytes),
        diff_ids,
        size: manifest.size(),
        tags: Vec::new(),
        digests: Vec::new(),
    };
    Ok(Found { parts, layers })
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn blob(members: &Members, digest: &Digest, size: u64) -> Result<Bytes> {
    let path = path(digest);
    let bytes = members.document(&path)?;
    if bytes.len() as u64 != size {
        let message = format!(
            "image archive: {path:?} has {} bytes instead of {size}",
            bytes.len()
        );
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    digest.verify(&bytes, &path)?;
    Ok(bytes)
}
