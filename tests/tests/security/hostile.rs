//! Images as an attacker writes them: layers byte by byte, any configuration.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use criquet_tests::{BUSYBOX, Node, Output, workspace};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const BLOCK: usize = 512;
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// A tar archive in the making. Nothing is checked: names may be anything.
#[derive(Clone, Default)]
pub(crate) struct Layer(Vec<u8>);

impl Layer {
    pub(crate) fn new() -> Layer {
        Layer::default()
    }

    /// `kind` is tar's type flag.
    pub(crate) fn entry(mut self, kind: u8, name: &str, link: &str, mode: u32, data: &[u8]) -> Layer {
        let mut block = [0u8; BLOCK];
        let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", data.len()));
        put(136, "00000000000");
        put(148, "        ");
        put(157, link);
        put(257, "ustar\x0000");
        // Of devices: those of /dev/kmsg.
        put(329, "0000001");
        put(337, "0000013");
        block[156] = kind;
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend(block);
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: impl AsRef<[u8]>) -> Layer {
        self.entry(b'0', name, "", 0o644, data.as_ref())
    }

    pub(crate) fn program(self, name: &str, data: impl AsRef<[u8]>) -> Layer {
        self.entry(b'0', name, "", 0o755, data.as_ref())
    }

    pub(crate) fn folder(self, name: &str) -> Layer {
        self.entry(b'5', name, "", 0o755, b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Layer {
        self.entry(b'2', name, target, 0o777, b"")
    }

    pub(crate) fn fifo(self, name: &str) -> Layer {
        self.entry(b'6', name, "", 0o666, b"")
    }

    pub(crate) fn device(self, name: &str) -> Layer {
        self.entry(b'3', name, "", 0o666, b"")
    }

    /// The name of lower layers goes away.
    pub(crate) fn without(self, name: &str) -> Layer {
        let (folder, last) = name.rsplit_once('/').map_or(("", name), |(f, l)| (f, l));
        let whiteout = Path::new(folder).join(format!(".wh.{last}"));
        self.file(whiteout.to_str().expect("utf-8"), "")
    }

    fn tar(&self) -> Vec<u8> {
        let mut tar = self.0.clone();
        tar.extend([0; 2 * BLOCK]);
        tar
    }
}

/// An image: busybox, then layers of the test's own.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) manifest: Value,
    config: Value,
}

impl Image {
    /// The test images' busybox with one more layer and these fields of `config`.
    pub(crate) fn of(layer: &Layer, fields: Value) -> Image {
        let layout = workspace().join(".work/images");
        let blob = |digest: &str| {
            let hex = digest.trim_start_matches("sha256:");
            std::fs::read(layout.join("blobs/sha256").join(hex)).expect("read a blob")
        };
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("parse a document");
        let text = |value: &Value| value.as_str().expect("text").to_string();
        let index = parse(&std::fs::read(layout.join("index.json")).expect("read the index"));
        let found = index["manifests"]
            .as_array()
            .expect("manifests")
            .iter()
            .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == BUSYBOX);
        let base = parse(&blob(&text(&found.expect("busybox")["digest"])));
        let mut config = parse(&blob(&text(&base["config"]["digest"])));
        let mut blobs = BTreeMap::new();
        let below = text(&base["layers"][0]["digest"]);
        blobs.insert(below.clone(), blob(&below));
        let tar = layer.tar();
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(&tar).expect("pack");
        let packed = packer.finish().expect("pack");
        config["rootfs"]["diff_ids"]
            .as_array_mut()
            .expect("diff ids")
            .push(digest(&tar).into());
        config.as_object_mut().expect("config").remove("history");
        for (key, value) in fields.as_object().expect("fields") {
            config["config"][key] = value.clone();
        }
        let layers =
            json!([base["layers"][0], {"mediaType": GZIP, "digest": digest(&packed), "size": packed.len()}]);
        blobs.insert(digest(&packed), packed);
        let mut image = Image {
            blobs,
            manifest: json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers}),
            config,
        };
        image.seal();
        image
    }

    /// Changes the whole configuration document.
    pub(crate) fn configured(mut self, change: impl FnOnce(&mut Value)) -> Image {
        change(&mut self.config);
        self.seal();
        self
    }

    fn seal(&mut self) {
        let bytes = self.config.to_string().into_bytes();
        self.manifest["config"] = json!({"mediaType": CONFIG, "digest": digest(&bytes), "size": bytes.len()});
        self.blobs.insert(digest(&bytes), bytes);
    }

    pub(crate) fn manifest_bytes(&self) -> Vec<u8> {
        self.manifest.to_string().into_bytes()
    }

    /// As an OCI archive, named `name`.
    fn archive(&self, name: &str) -> Vec<u8> {
        let manifest = self.manifest_bytes();
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len(),
            "annotations": {"io.containerd.image.name": name},
        }]});
        let path = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
        let mut tar = Layer::new()
            .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", index.to_string())
            .file(&path(&digest(&manifest)), &manifest);
        for (digest, bytes) in &self.blobs {
            tar = tar.file(&path(digest), bytes);
        }
        tar.tar()
    }

    /// `criquet image load`.
    pub(crate) fn try_load(&self, node: &Node, name: &str) -> Output {
        let file = node.work().join(format!(
            "{}.tar",
            digest(name.as_bytes()).trim_start_matches("sha256:")
        ));
        std::fs::write(&file, self.archive(name)).expect("write the archive");
        node.criquet(&["image", "load", file.to_str().expect("utf-8")])
    }

    /// `criquet image load` that has to work.
    #[track_caller]
    pub(crate) fn load(&self, node: &Node, name: &str) {
        self.try_load(node, name).ok();
    }
}
