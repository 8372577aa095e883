//! Manifests, indexes and image configurations: OCI image specification v1.1 and docker's version 2, schema 2.
//!
//! They come from registries and archives that anybody may have written, so sizes and counts are capped and a
//! document that can be read in two ways is refused (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::limits::{DESCRIPTORS_MAX, DOCUMENT_SIZE_MAX, LAYERS_MAX};
use crate::{Error, ErrorKind, ImageConfig, Result};

/// Media types of documents.
pub mod media_type {
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// Docker's manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// How docker's schema 1 types begin.
    pub(super) const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";
    /// What a registry may answer to a request for a manifest.
    pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
        application/vnd.docker.distribution.manifest.list.v2+json, \
        application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

    /// Whether it denotes an index.
    #[must_use]
    pub fn is_index(text: &str) -> bool {
        matches!(text, OCI_INDEX | DOCKER_INDEX)
    }

    /// Whether it denotes a manifest of one image.
    #[must_use]
    pub fn is_manifest(text: &str) -> bool {
        matches!(text, OCI_MANIFEST | DOCKER_MANIFEST)
    }
}

/// A pointer to content. Its `urls` are not read: fetching from where an image says is CVE-2020-15157.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its exact length in bytes.
    pub size: u64,
    /// For whom, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Annotations; control nothing.
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// Operating system and processor, in Go's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`.
    #[serde(default, deserialize_with = "or_null")]
    pub architecture: String,
    /// `linux`.
    #[serde(default, deserialize_with = "or_null")]
    pub os: String,
    /// `v8`; may be empty.
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "String::is_empty"
    )]
    pub variant: String,
}

/// The images of one name for several platforms.
#[derive(Debug, Clone)]
pub struct Index {
    /// Manifests and further indexes, in order of preference.
    pub manifests: Vec<Descriptor>,
}

/// One image.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, base first.
    pub layers: Vec<Descriptor>,
}

/// Either kind of document that a name in a registry may denote.
#[derive(Debug, Clone)]
pub enum Document {
    /// Several images.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// All fields that make a difference, so that a mix of them is seen. A field that comes twice is serde's error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index. `expected` is what the registry's Content-Type or the descriptor says that
    /// it is; where it names one of the known types, the document must agree.
    ///
    /// # Errors
    /// `Invalid` for what is no image, is ambiguous or is too large.
    pub fn parse(bytes: &[u8], expected: Option<&str>) -> Result<Self> {
        check_size(bytes, "manifest")?;
        let invalid = |why: String| Error::new(ErrorKind::Invalid, format!("invalid manifest: {why}"));
        let expected = expected.map(|e| e.split(';').next().unwrap_or(e).trim());
        if expected.is_some_and(|e| e.starts_with(media_type::DOCKER_SCHEMA1)) {
            return Err(schema1());
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
            return Err(schema1());
        }
        if raw.schema_version.is_some_and(|version| version != 2) {
            return Err(invalid("its schemaVersion is not 2".into()));
        }
        let known = |t: &&str| media_type::is_index(t) || media_type::is_manifest(t);
        let expected = expected.filter(known);
        let own = raw.media_type.as_deref();
        if let (Some(expected), Some(own)) = (expected, own)
            && own != expected
        {
            return Err(invalid(format!(
                "it came as {expected:?} and says that it is {own:?}"
            )));
        }
        if let Some(other) = own.filter(|own| !known(own)) {
            return Err(invalid(format!("it is not an image but {other:?}")));
        }
        let declared = own.or(expected);
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) if declared.is_none_or(media_type::is_index) => {
                check_count(manifests.len(), DESCRIPTORS_MAX, "manifests")?;
                Ok(Self::Index(Index { manifests }))
            }
            (None, Some(config), Some(layers)) if declared.is_none_or(media_type::is_manifest) => {
                check_count(layers.len(), LAYERS_MAX, "layers")?;
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            (Some(_), None, None) | (None, Some(_), Some(_)) => Err(invalid(format!(
                "its fields are not those of {:?}",
                declared.unwrap_or_default()
            ))),
            (Some(_), _, _) => Err(invalid("it is both an index and a manifest".into())),
            (None, _, _) => Err(invalid(
                "it has neither `manifests` nor `config` and `layers`".into(),
            )),
        }
    }
}

impl Manifest {
    /// Reads the manifest of one image.
    ///
    /// # Errors
    /// As [`Document::parse`]; `Invalid` for an index.
    pub fn parse(bytes: &[u8], expected: Option<&str>) -> Result<Self> {
        match Document::parse(bytes, expected)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(Error::new(
                ErrorKind::Invalid,
                "found an index instead of a manifest",
            )),
        }
    }

    /// # Errors
    /// `Invalid` when the configuration is not that of a container image, as with Helm charts and other artifacts.
    pub fn check_is_image(&self) -> Result<()> {
        match self.config.media_type.as_str() {
            media_type::OCI_CONFIG | media_type::DOCKER_CONFIG => Ok(()),
            other => Err(Error::new(
                ErrorKind::Invalid,
                format!("it is not a container image: its configuration is {other:?}"),
            )),
        }
    }

    /// The compressed size of the layers and the configuration, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layers
            .iter()
            .fold(self.config.size, |sum, layer| sum.saturating_add(layer.size))
    }
}

/// What an image configuration holds that matters here.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ImageConfigFile {
    /// `amd64`.
    #[serde(default, deserialize_with = "or_null")]
    pub architecture: String,
    /// `linux`.
    #[serde(default, deserialize_with = "or_null")]
    pub os: String,
    /// `v8`; may be empty.
    #[serde(default, deserialize_with = "or_null")]
    pub variant: String,
    /// What a container starts from.
    #[serde(default, deserialize_with = "or_null")]
    pub config: ContainerConfig,
    /// The unpacked layers.
    #[serde(default, deserialize_with = "or_null")]
    pub rootfs: RootFs,
}

/// The `config` object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `USER`.
    #[serde(default, deserialize_with = "or_null")]
    pub user: String,
    /// `ENV`.
    #[serde(default, deserialize_with = "or_null")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    #[serde(default, deserialize_with = "or_null")]
    pub entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(default, deserialize_with = "or_null")]
    pub cmd: Vec<String>,
    /// `WORKDIR`.
    #[serde(default, deserialize_with = "or_null")]
    pub working_dir: String,
    /// `STOPSIGNAL`.
    #[serde(default, deserialize_with = "or_null")]
    pub stop_signal: String,
    /// `VOLUME`.
    #[serde(default, deserialize_with = "or_null")]
    pub volumes: BTreeMap<String, serde::de::IgnoredAny>,
    /// `LABEL`.
    #[serde(default, deserialize_with = "or_null")]
    pub labels: BTreeMap<String, String>,
}

/// The `rootfs` object.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RootFs {
    /// Digests of the uncompressed layers, base first.
    #[serde(default, deserialize_with = "or_null")]
    pub diff_ids: Vec<Digest>,
}

impl ImageConfigFile {
    /// Reads an image configuration.
    ///
    /// # Errors
    /// `Invalid` for what is none, or is too large.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        check_size(bytes, "image configuration")?;
        let file: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::caused(ErrorKind::Invalid, "invalid image configuration", e))?;
        check_count(file.rootfs.diff_ids.len(), LAYERS_MAX, "layers")?;
        Ok(file)
    }

    /// # Errors
    /// `Invalid` when the image has another number of layers than the configuration.
    pub fn check_layers(&self, manifest: &Manifest) -> Result<()> {
        let (ids, layers) = (self.rootfs.diff_ids.len(), manifest.layers.len());
        if ids == layers {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!("the manifest has {layers} layers and the image configuration {ids}"),
        ))
    }

    /// What a container takes from it. Environment entries that are not `NAME=VALUE` are left out.
    #[must_use]
    pub fn container_config(&self) -> ImageConfig {
        let config = &self.config;
        let well_formed = |entry: &&String| !entry.contains('\0') && entry.find('=').is_some_and(|at| at > 0);
        ImageConfig {
            user: config.user.clone(),
            env: config.env.iter().filter(well_formed).cloned().collect(),
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            working_dir: config.working_dir.clone(),
            stop_signal: config.stop_signal.clone(),
            volumes: config.volumes.keys().cloned().collect(),
            labels: config.labels.clone(),
        }
    }
}

fn schema1() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "the image is in docker's schema 1 format of before 2017, which cannot be verified; push it anew",
    )
}

/// The nesting of JSON needs no check of ours: `serde_json` ends at 128, and skips what we do not read without
/// recursion.
fn check_size(bytes: &[u8], what: &str) -> Result<()> {
    if bytes.len() as u64 > DOCUMENT_SIZE_MAX {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("the {what} is larger than {DOCUMENT_SIZE_MAX} bytes"),
        ));
    }
    Ok(())
}

fn check_count(count: usize, max: usize, what: &str) -> Result<()> {
    if count > max {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("the image has {count} {what}; at most {max} are taken"),
        ));
    }
    Ok(())
}

/// Go writes `null` for what is empty.
fn or_null<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(b"").as_str(), "size": 0, "urls": ["http://evil/"]})
    }

    fn manifest() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": descriptor(media_type::OCI_CONFIG),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
        })
    }

    fn with(key: &str, value: Value) -> Value {
        let mut document = manifest();
        document[key] = value;
        document
    }

    fn parse(document: &Value, expected: Option<&str>) -> Result<Document> {
        Document::parse(&serde_json::to_vec(document).unwrap(), expected)
    }

    #[test]
    fn manifests_and_indexes() {
        let parsed = parse(
            &manifest(),
            Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
        );
        assert!(
            matches!(parsed, Ok(Document::Manifest(m)) if m.layers.len() == 1 && m.check_is_image().is_ok())
        );
        let bare = json!({"schemaVersion": 2, "manifests": [descriptor(media_type::OCI_MANIFEST)]});
        for expected in [
            None,
            Some("application/json"),
            Some("text/plain"),
            Some(media_type::DOCKER_INDEX),
        ] {
            assert!(
                matches!(parse(&bare, expected), Ok(Document::Index(_))),
                "{expected:?}"
            );
        }
        let chart = with("config", descriptor("application/vnd.cncf.helm.config.v1+json"));
        let chart = Manifest::parse(&serde_json::to_vec(&chart).unwrap(), None).unwrap();
        assert!(chart.check_is_image().unwrap_err().to_string().contains("helm"));
    }

    #[test]
    fn refused() {
        let many = Value::Array(vec![descriptor("x"); LAYERS_MAX + 1]);
        let mut traversal = descriptor("x");
        traversal["digest"] = json!("sha256:../../x");
        let mut negative = descriptor("x");
        negative["size"] = json!(-1);
        for (document, expected, why) in [
            (with("manifests", json!([])), None, "both an index and a manifest"),
            (manifest(), Some(media_type::OCI_INDEX), "came as"),
            (manifest(), Some(media_type::DOCKER_MANIFEST), "came as"),
            (
                with("mediaType", json!(media_type::OCI_INDEX)),
                None,
                "fields are not those",
            ),
            (with("mediaType", json!("application/x")), None, "not an image"),
            (with("schemaVersion", json!(3)), None, "schemaVersion"),
            (with("schemaVersion", json!(1)), None, "schema 1"),
            (with("fsLayers", json!([])), None, "schema 1"),
            (
                manifest(),
                Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
                "schema 1",
            ),
            (with("layers", Value::Null), None, "neither"),
            (with("layers", many), None, "at most"),
            (with("layers", json!([traversal])), None, "invalid digest"),
            (with("layers", json!([negative])), None, "invalid value"),
            (json!([]), None, "invalid"),
        ] {
            let error = parse(&document, expected).unwrap_err().to_string();
            assert!(error.contains(why), "{error:?} does not say {why:?}");
        }
        let twice = br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
        assert!(
            Document::parse(twice, None)
                .unwrap_err()
                .to_string()
                .contains("duplicate field")
        );
        let large = vec![b' '; usize::try_from(DOCUMENT_SIZE_MAX).unwrap() + 1];
        assert!(
            Document::parse(&large, None)
                .unwrap_err()
                .to_string()
                .contains("larger")
        );
        assert!(
            ImageConfigFile::parse(&large)
                .unwrap_err()
                .to_string()
                .contains("larger")
        );
    }

    #[test]
    fn configurations() {
        let text = json!({
            "architecture": "amd64", "os": "linux", "variant": null,
            "config": {
                "User": "1:2", "Env": ["A=b", "bad", "=c"], "Cmd": null, "Entrypoint": ["/x"],
                "Volumes": {"/data": {}}, "Labels": {"io.example/x": "1"}, "StopSignal": "SIGINT",
                "ExposedPorts": {"80/tcp": {}},
            },
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"").as_str()]},
        });
        let file = ImageConfigFile::parse(&serde_json::to_vec(&text).unwrap()).unwrap();
        let config = file.container_config();
        assert_eq!(config.env, ["A=b"]);
        assert_eq!(config.volumes, ["/data"]);
        assert_eq!(
            (config.user.as_str(), config.stop_signal.as_str()),
            ("1:2", "SIGINT")
        );
        let image = Manifest::parse(&serde_json::to_vec(&manifest()).unwrap(), None).unwrap();
        file.check_layers(&image).unwrap();
        let empty = ImageConfigFile::parse(br#"{"config":null,"rootfs":null}"#).unwrap();
        assert!(empty.check_layers(&image).is_err());
        assert!(ImageConfigFile::parse(br#"{"rootfs":{"diff_ids":["x"]}}"#).is_err());
    }
}
