//! Against the distribution project's registry, filled by skopeo. Where they are not installed, there is nothing
//! to check, and the test says so.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::tests::fixture::own_address;

/// `ann` with the tests' password.
const HTPASSWD: &str = "ann:$2b$05$oZPa5YuoDAm4H0AuIB3B0epDK4znq53LwNEWQVfahehGJyeUTAere\n";
/// Several of the server's write buffers.
const BIG: usize = 1 << 20;

struct Server {
    child: Child,
    authority: String,
    _root: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Server {
    /// None where the program is missing.
    fn start() -> Option<Self> {
        let authority = own_address();
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::fs::write(path("htpasswd"), HTPASSWD).unwrap();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{authority}\"}}\n\
             auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            path("data").display(),
            path("htpasswd").display(),
        );
        std::fs::write(path("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(path("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().ok()?;
        let server = Self {
            child,
            authority,
            _root: root,
        };
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(&server.authority).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }
}

/// An OCI layout with one image, tagged `latest`.
fn layout(root: &Path) -> Vec<Vec<u8>> {
    let blobs = root.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |media_type: &str, content: &[u8]| {
        let digest = Digest::of(content);
        std::fs::write(blobs.join(digest.hex()), content).unwrap();
        json!({"mediaType": media_type, "digest": digest.as_str(), "size": content.len()})
    };
    let big = b"0123456789abcdef".repeat(BIG / 16);
    let layers = vec![LAYER.to_vec(), big];
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": put(media_type::OCI_CONFIG, &serde_json::to_vec(&config).unwrap()),
        "layers": layers.iter().map(|layer| put(tar, layer)).collect::<Vec<_>>(),
    });
    let mut entry = put(media_type::OCI_MANIFEST, &serde_json::to_vec(&manifest).unwrap());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(root.join("index.json"), index.to_string()).unwrap();
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    layers
}

#[tokio::test]
async fn pulls_what_skopeo_pushed() {
    let Some(server) = Server::start() else {
        eprintln!("docker-registry is not installed");
        return;
    };
    let source = tempfile::tempdir().unwrap();
    let layers = layout(source.path());
    let name = format!("{}/team/app", server.authority);
    let mut command = Command::new("skopeo");
    command.args([
        "copy",
        "--quiet",
        "--preserve-digests",
        "--dest-tls-verify=false",
        "--dest-creds",
        &format!("ann:{CANARY}"),
    ]);
    command
        .arg(format!("oci:{}:latest", source.path().display()))
        .arg(format!("docker://{name}:v1"));
    match command.status() {
        Ok(status) => assert!(status.success(), "skopeo: {status}"),
        Err(_) => return eprintln!("skopeo is not installed"),
    }

    let reference = format!("{name}:v1");
    assert_eq!(
        resolve(&reference, None).await.unwrap_err().kind(),
        ErrorKind::Denied
    );
    let wrong = Credentials {
        username: "eve".into(),
        ..password()
    };
    assert_eq!(
        resolve(&reference, Some(&wrong)).await.unwrap_err().kind(),
        ErrorKind::Denied
    );
    let error = resolve(&format!("{name}:none"), Some(&password()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    let remote = resolve(&reference, Some(&password())).await.unwrap();
    for (descriptor, layer) in remote.manifest.layers.iter().zip(&layers) {
        for offset in [0, layer.len() / 2, layer.len()] {
            let stream = remote.blob(descriptor, offset as u64).await.unwrap();
            assert!(
                stream.collect().await.unwrap() == layer[offset..],
                "from {offset}"
            );
        }
    }
    let again = resolve(&format!("{name}@{}", remote.digest), Some(&password()))
        .await
        .unwrap();
    assert_eq!(again.manifest_bytes, remote.manifest_bytes);
}
