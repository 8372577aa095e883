//! Against the distribution project's registry, filled by skopeo, with a mount of what came of it. Where they are
//! not installed, there is nothing to check, and the test says so.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::fixture::*;
use crate::layer::tar::{Entry, Kind};

struct Server {
    child: Child,
    authority: String,
    _root: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn start() -> Option<Server> {
    let authority = own_address();
    let root = tempfile::tempdir().unwrap();
    let (config, data) = (root.path().join("config.yml"), root.path().join("data"));
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{authority}\"}}\n",
        data.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("docker-registry");
    command
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let server = Server {
        child: command.spawn().ok()?,
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

/// Three layers of three packings, in which the upper ones change the lower.
fn layout() -> Layout {
    let mut layout = Layout::default();
    let tmp = (
        Entry {
            mode: 0o1777,
            ..entry(Kind::Directory, "tmp")
        },
        vec![],
    );
    let base = tar(&[
        directory("./"),
        tmp,
        directory("etc"),
        file("etc/a", b"a"),
        file("etc/b", b"b"),
        directory("opt"),
        file("opt/x", b"x"),
    ]);
    let middle = tar(&[
        file("etc/.wh.a", b""),
        file("opt/.wh..wh..opq", b""),
        file("opt/y", b"y"),
        file("tmp/t", b"t"),
    ]);
    let top = tar(&[file("etc/b", b"new"), file("big", &noise(8, 3 << 20))]);
    let mut manifest = layout.image(&[
        (base, gzip, "tar+gzip"),
        (middle, zstd, "tar+zstd"),
        (top, <[u8]>::to_vec, "tar"),
    ]);
    manifest["platform"] = json!({"os": "linux", "architecture": crate_architecture()});
    layout.name(manifest, "one");
    layout
}

#[tokio::test(flavor = "multi_thread")]
async fn what_skopeo_pushed_mounts() {
    let Some(server) = start() else {
        return eprintln!("docker-registry is not installed");
    };
    let source = tempfile::tempdir().unwrap();
    layout().write(source.path());
    let name = format!("{}/team/app", server.authority);
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]);
    command
        .arg(format!("oci:{}:one", source.path().display()))
        .arg(format!("docker://{name}:v1"));
    match command.status() {
        Ok(status) => assert!(status.success(), "skopeo: {status}"),
        Err(_) => return eprintln!("skopeo is not installed"),
    }
    let root = tempfile::tempdir().unwrap();
    let images = images(root.path()).await;
    let image = images.pull(&format!("{name}:v1"), None).await.unwrap();
    let digest = layout().manifests[0]["digest"].as_str().unwrap().to_owned();
    assert_eq!(image.repo_digests, [format!("{name}@{digest}")]);
    let again = images.pull(&image.repo_digests[0], None).await.unwrap();
    assert_eq!((&again.id, &again.repo_tags), (&image.id, &image.repo_tags));

    // In a mount namespace of its own: the name of each file, the mode of tmp, a file that two layers have.
    let lower: Vec<&str> = image.layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    let script = "mount -t overlay overlay -o ro,lowerdir=$1 /mnt && cd /mnt && \
        echo * etc/* opt/* && stat -c %a tmp && cat etc/b";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", &lower.join(":")]);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "big etc opt tmp etc/b opt/y\n1777\nnew"
    );
}
