//! Against a registry on loopback that says what a test wants.

mod auth;
mod distribution;
mod fault;
mod hosts;
mod mirror;
mod stub;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use self::stub::{Asked, Reply};
use super::*;

const LAYER: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// In every secret of the tests, and in no error text.
const CANARY: &str = "cAnArY";
/// What takes so long is stuck, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// For tests about registries that stall: long enough that an honest answer comes in time.
const STALL: Duration = Duration::from_secs(1);

/// An image with one layer.
#[derive(Clone)]
struct Sample {
    manifest: Bytes,
    config: Bytes,
}

impl Sample {
    fn new() -> Self {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(LAYER).as_str()]},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": descriptor(media_type::OCI_CONFIG, &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", LAYER)],
        });
        Self {
            manifest: serde_json::to_vec(&manifest).unwrap().into(),
            config: config.into(),
        }
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// What an honest registry answers.
    fn reply(&self, asked: &Asked) -> Reply {
        let manifest_paths = ["latest".to_owned(), self.digest().to_string()];
        let (kind, name) = asked.path.rsplit_once('/').unwrap_or_default();
        if kind.ends_with("/manifests") && manifest_paths.iter().any(|path| path == name) {
            return Reply::ok(self.manifest.clone()).with("content-type", media_type::OCI_MANIFEST);
        }
        if kind.ends_with("/blobs") {
            for content in [&self.config[..], LAYER] {
                if name == Digest::of(content).as_str() {
                    return ranged(asked, content);
                }
            }
        }
        Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#)
    }
}

fn ranged(asked: &Asked, content: &[u8]) -> Reply {
    let start = asked
        .header("range")
        .strip_prefix("bytes=")
        .and_then(|r| r.strip_suffix('-'));
    let Some(start) = start.map(|s| s.parse::<usize>().unwrap()) else {
        return Reply::ok(content.to_vec());
    };
    let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
    Reply::ok(content[start..].to_vec())
        .status(206)
        .with("content-range", range)
}

/// An address at which nobody listens, and what keeps others from it.
fn closed_port() -> (tokio::net::TcpSocket, String) {
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = bound.local_addr().unwrap().to_string();
    (bound, address)
}

fn descriptor(media_type: &str, content: &[u8]) -> serde_json::Value {
    json!({
        "mediaType": media_type, "digest": Digest::of(content).as_str(), "size": content.len(),
        "urls": ["http://127.0.0.1:1/evil"],
    })
}

/// A `certs.d` with these files.
fn certs_d(files: &[(&str, String)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    root
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/registry/tests/tls")
        .join(name)
}

fn fixture_text(name: &str) -> String {
    std::fs::read_to_string(fixture(name)).unwrap()
}

fn acceptor(clients: bool) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if clients {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(fixture("ca.pem")).unwrap())
            .unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let chain = vec![CertificateDer::from_pem_file(fixture("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
    TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
}

/// Resolves without a `certs.d`.
async fn resolve(name: &str, credentials: Option<&Credentials>) -> Result<Remote> {
    resolve_with(Path::new("/nonexistent"), name, credentials).await
}

async fn resolve_with(root: &Path, name: &str, credentials: Option<&Credentials>) -> Result<Remote> {
    resolve_within(PATIENCE, root, name, credentials).await
}

/// `stall`: no byte of a blob for so long ends a try.
async fn resolve_within(
    stall: Duration,
    root: &Path,
    name: &str,
    credentials: Option<&Credentials>,
) -> Result<Remote> {
    let registry = Registry::new(root.to_owned(), stall).unwrap();
    let result = registry.resolve(&name.parse().unwrap(), credentials).await;
    told_no_secret(&result);
    result
}

fn told_no_secret<T: std::fmt::Debug>(result: &Result<T>) {
    assert!(!format!("{result:?}").contains(CANARY), "{result:?}");
}

/// The layer from `offset` on.
async fn layer(remote: &Remote, offset: u64) -> Result<Bytes> {
    let result = match remote.blob(&remote.manifest.layers[0], offset).await {
        Ok(stream) => stream.collect().await,
        Err(error) => Err(error),
    };
    told_no_secret(&result);
    result
}

fn password() -> Credentials {
    Credentials {
        username: "ann".into(),
        password: CANARY.into(),
        ..Credentials::default()
    }
}
