//! Layers and images made here.

use std::fs::File;
use std::io::{Seek, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::layer::tar::{Entry, Kind, writer};
use crate::{Images, Options};

/// What must become so may take so long on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn entry(kind: Kind, name: &str) -> Entry {
    Entry {
        kind,
        name: name.into(),
        link: Vec::new(),
        mode: if kind == Kind::Directory { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        size: 0,
        mtime: (1_000_000_000, 0),
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

pub(crate) fn directory(name: &str) -> (Entry, Vec<u8>) {
    (entry(Kind::Directory, name), Vec::new())
}

pub(crate) fn file(name: &str, data: &[u8]) -> (Entry, Vec<u8>) {
    (
        Entry {
            size: data.len() as u64,
            ..entry(Kind::File, name)
        },
        data.to_vec(),
    )
}

pub(crate) fn link(kind: Kind, name: &str, target: &str) -> (Entry, Vec<u8>) {
    (
        Entry {
            link: target.into(),
            ..entry(kind, name)
        },
        Vec::new(),
    )
}

pub(crate) fn tar(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (entry, data) in entries {
        writer::append(&mut archive, entry, data);
    }
    writer::finish(&mut archive);
    archive
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}

/// Some bytes that do not compress, the same for each `seed`.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..size.div_ceil(8)).flat_map(|_| next()).take(size).collect()
}

pub(crate) fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let config = json!({
        "architecture": crate_architecture(), "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "bad"], "User": "7"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&config).unwrap()
}

pub(crate) fn crate_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What `docker save` writes.
pub(crate) fn docker_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let config = config(layers);
    let files: Vec<String> = (0..layers.len()).map(|at| format!("{at}/layer.tar")).collect();
    let manifest = json!([{"Config": "c.json", "RepoTags": [name], "Layers": files}]);
    let mut entries = vec![
        file("c.json", &config),
        file("manifest.json", &serde_json::to_vec(&manifest).unwrap()),
    ];
    entries.extend(files.iter().zip(layers).map(|(name, layer)| file(name, layer)));
    tar(&entries)
}

/// A tar archive, what packs it, and the end of the media type.
pub(crate) type Packed = (Vec<u8>, fn(&[u8]) -> Vec<u8>, &'static str);

/// An OCI image layout under construction.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub(crate) blobs: std::collections::BTreeMap<Digest, Vec<u8>>,
    pub(crate) manifests: Vec<Value>,
}

impl Layout {
    pub(crate) fn blob(&mut self, media_type: &str, data: Vec<u8>) -> Value {
        let digest = Digest::of(&data);
        let descriptor = json!({"mediaType": media_type, "digest": digest.as_str(), "size": data.len()});
        self.blobs.insert(digest, data);
        descriptor
    }

    /// Adds an image of tar archives, each packed by its function and media type; gives the manifest's descriptor.
    pub(crate) fn image(&mut self, layers: &[Packed]) -> Value {
        let tars: Vec<Vec<u8>> = layers.iter().map(|(tar, ..)| tar.clone()).collect();
        let descriptors: Vec<Value> = layers
            .iter()
            .map(|(tar, pack, kind)| {
                self.blob(&format!("application/vnd.oci.image.layer.v1.{kind}"), pack(tar))
            })
            .collect();
        let config = self.blob(crate::manifest::media_type::OCI_CONFIG, config(&tars));
        let kind = crate::manifest::media_type::OCI_MANIFEST;
        let manifest =
            json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": descriptors});
        self.blob(kind, serde_json::to_vec(&manifest).unwrap())
    }

    pub(crate) fn name(&mut self, mut descriptor: Value, name: &str) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.manifests.push(descriptor);
    }

    pub(crate) fn archive(&self) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        let mut entries = vec![
            file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
            file("index.json", &serde_json::to_vec(&index).unwrap()),
        ];
        entries.extend(
            self.blobs
                .iter()
                .map(|(d, data)| file(&format!("blobs/sha256/{}", d.hex()), data)),
        );
        tar(&entries)
    }

    pub(crate) fn write(&self, root: &Path) {
        std::fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        std::fs::write(root.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
        for (digest, data) in &self.blobs {
            std::fs::write(root.join("blobs/sha256").join(digest.hex()), data).unwrap();
        }
    }
}

pub(crate) fn opened(data: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(data).unwrap();
    file.rewind().unwrap();
    file
}

pub(crate) fn options(root: &Path) -> Options {
    Options {
        root: root.join("store"),
        hosts_dir: root.join("certs.d"),
        downloads_max: 3,
        stall_timeout: PATIENCE,
        pinned: vec!["pinned.example/pause:3".into()],
    }
}

pub(crate) async fn images(root: &Path) -> Images {
    Images::open(options(root)).await.unwrap()
}

/// Waits until `done`, which something in the background brings about.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An address for another program to listen on, of which nobody else can take the port meanwhile: a loopback address
/// of this process and call alone.
pub(crate) fn own_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, NEXT.fetch_add(1, Ordering::Relaxed) << 6 | a, b, c);
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The names in a directory of the store.
pub(crate) fn names(root: &Path, part: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("store").join(part)).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
