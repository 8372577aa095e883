//! `manifest.json`, as `docker save` writes it: a list of images, each with its config and its layers' files.

use serde::Deserialize;

use super::{Found, Parts, invalid, reference};
use crate::layer::Expected;
use crate::load::member::Members;
use crate::manifest::ImageConfigFile;
use crate::{Error, ErrorKind, Result};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn images(members: &Members) -> Result<Vec<Found>> {
    let items: Vec<Item> = serde_json::from_slice(&members.document("manifest.json")?)
        .map_err(|e| Error::caused(ErrorKind::Invalid, "image archive: reading manifest.json", e))?;
    items.into_iter().map(|item| image(members, item)).collect()
}

fn image(members: &Members, item: Item) -> Result<Found> {
    let config = members.document(&item.config)?;
    let diff_ids = ImageConfigFile::parse(&config)?.rootfs.diff_ids;
    if diff_ids.len() != item.layers.len() {
        return Err(invalid(&format!(
            "{:?} has another number of layers than its list",
            item.config
        )));
    }
    let mut layers = Vec::new();
    for (name, diff_id) in item.layers.iter().zip(&diff_ids) {
        let span = members.span(name)?;
        let expected = Expected {
            digest: None,
            size: span.size,
            diff_id: diff_id.clone(),
        };
        layers.push((span, expected));
    }
    let mut tags = Vec::new();
    for name in item.repo_tags.unwrap_or_default() {
        tags.extend(reference(&name)?.with_tag());
    }
    let size = layers.iter().fold(config.len() as u64, |sum, (span, _)| {
        sum.saturating_add(span.size)
    });
    Ok(Found {
        parts: Parts {
            config,
            manifest: None,
            diff_ids,
            size,
            tags,
            digests: Vec::new(),
        },
        layers,
    })
}
