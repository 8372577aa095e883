//! Images whose layers, archive or configuration want more than a root file system.

use criquet_tests::{Node, container, cri, host, image, pod};
use serde_json::json;

use crate::canary::Canary;
use crate::hostile::{Image, Layer};
use crate::probe::try_launch;
use crate::stub::Stub;

type Case = (&'static str, Layer);

/// Layers that write outside of their folder, by names and symbolic links.
fn by_names(canary: &Canary) -> Vec<Case> {
    let (root, file) = (canary.path(""), canary.path("file"));
    let up = format!("../../../../../../../../../../..{root}");
    let new = Layer::new;
    vec![
        ("name with ..", new().file(&format!("{up}/file"), "evil")),
        (
            "name with .. inside",
            new().folder("a").file(&format!("a/{up}/file"), "evil"),
        ),
        ("absolute name", new().file(&file, "evil")),
        (
            "through an absolute link",
            new().link("a", &root).file("a/file", "evil"),
        ),
        (
            "through a relative link",
            new().link("a", &up).file("a/file", "evil"),
        ),
        (
            "through a chain",
            new().link("a", "b").link("b", &root).file("a/file", "evil"),
        ),
        (
            "through a link in a folder",
            new().folder("d").link("d/a", &up).file("d/a/file", "evil"),
        ),
        (
            "through a link of the layer below",
            new().link("tmp", &root).file("tmp/file", "evil"),
        ),
        ("over a link", new().link("a", &file).file("a", "evil")),
    ]
}

/// By hard links, and by folders whose modes are set.
fn by_links(canary: &Canary) -> Vec<Case> {
    let (root, file, private) = (canary.path(""), canary.path("file"), canary.path("private"));
    let up = format!("../../../../../../../../../../..{root}");
    let new = Layer::new;
    vec![
        (
            "hard link out",
            new().entry(b'1', "a", &file, 0, b"").file("a", "evil"),
        ),
        (
            "hard link out by ..",
            new()
                .entry(b'1', "a", &format!("{up}/file"), 0, b"")
                .file("a", "evil"),
        ),
        (
            "hard link to a link",
            new()
                .link("l", &file)
                .entry(b'1', "a", "l", 0, b"")
                .file("a", "evil"),
        ),
        (
            "hard link through a link",
            new()
                .link("l", &root)
                .entry(b'1', "a", "l/file", 0, b"")
                .file("a", "evil"),
        ),
        (
            "hard link to a device",
            new().entry(b'1', "a", "/dev/null", 0, b"").file("a", "evil"),
        ),
        (
            "folder over a link",
            new()
                .link("a", &private)
                .entry(b'5', "a", "", 0o777, b"")
                .file("a/x", "evil"),
        ),
        (
            "folder over a link with a dot",
            new().link("a", &private).entry(b'5', "a/.", "", 0o777, b""),
        ),
        (
            "folder over a link with a slash",
            new().link("a", &private).entry(b'5', "a/", "", 0o777, b""),
        ),
        (
            "mode of the root",
            new()
                .entry(b'5', "./", "", 0o777, b"")
                .entry(b'5', "..", "", 0o777, b""),
        ),
    ]
}

/// By what removes, and what only looks odd.
fn by_whiteouts(canary: &Canary) -> Vec<Case> {
    let (root, file) = (canary.path(""), canary.path("file"));
    let up = format!("../../../../../../../../../../..{root}");
    let new = Layer::new;
    vec![
        ("whiteout of ..", new().file(".wh...", "").file("a/.wh..", "")),
        ("whiteout of /", new().file(".wh.", "")),
        (
            "whiteout through a link",
            new().link("a", &root).file("a/.wh.file", ""),
        ),
        ("whiteout with ..", new().file(&format!("{up}/.wh.file"), "")),
        (
            "opaque through a link",
            new().link("a", &root).file("a/.wh..wh..opq", ""),
        ),
        ("opaque with ..", new().file(&format!("{up}/.wh..wh..opq"), "")),
        ("whiteout that is a link", new().link("bin/.wh.sh", &file)),
        (
            "whiteout that is a folder",
            new().folder("bin/.wh.sh").file("bin/.wh.sh/x", ""),
        ),
        (
            "overlay's own names",
            new()
                .device("whiteout")
                .file(".wh..wh.aufs", "")
                .folder(".wh..wh.orph"),
        ),
        (
            "file, folder, file",
            new().file("a", "1").folder("a").file("a/b", "2").file("a", "3"),
        ),
        (
            "setuid and links to it",
            new().entry(b'0', "su", "", 0o6755, b"x").link("s", "su"),
        ),
    ]
}

fn layers(canary: &Canary) -> Vec<Case> {
    [by_names(canary), by_links(canary), by_whiteouts(canary)].concat()
}

/// moby#5656, CVE-2025-47290, CVE-2025-11395, CVE-2021-32760, CVE-2026-33056: by archive and by registry.
#[test]
fn cve_2025_47290_layers_stay_in_their_folder() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(pod("layers"));
    let mut accepted = 0;
    for (number, (name, layer)) in layers(&canary).into_iter().enumerate() {
        let hostile = Image::of(&layer, json!({}));
        let reference = format!("hostile.test/layers:{number}");
        let loaded = hostile.try_load(&node, &reference);
        canary.assert_unchanged();
        let pulled = Stub::of(&hostile).pull(&node, &format!("layers/n{number}:1"), None);
        canary.assert_unchanged();
        assert_eq!(loaded.code == 0, pulled.is_ok(), "{name}: {loaded:?} {pulled:?}");
        if loaded.code != 0 {
            assert!(!loaded.stderr.trim().is_empty(), "{name}");
            continue;
        }
        accepted += 1;
        // What was taken is an ordinary image.
        if let Ok(id) = try_launch(
            &node,
            &pod,
            container(&format!("c{number}"), &reference, &["true"]),
        ) {
            node.remove_container(&id);
        }
        canary.assert_unchanged();
    }
    assert!(
        accepted > 3,
        "{accepted} of all were taken: this tests refusals alone"
    );
    assert_eq!(
        host::tree(&node.place.folder.join("root"))
            .iter()
            .filter(|path| path.contains(".."))
            .count(),
        0
    );
}

/// Links that point anywhere are fine where nothing is written through them; so are a root's mode and hard links.
#[test]
fn ordinary_oddities_still_work() {
    let node = Node::start();
    let pod = node.pod(pod("odd"));
    let layer = Layer::new()
        .link("etc/mtab", "/proc/mounts")
        .link("nowhere", "/no/such/place")
        .link("up", "../../../../..")
        .program("bin/tool", "#!/bin/sh\necho tool\n")
        .entry(b'1', "bin/again", "bin/tool", 0o755, b"")
        .entry(b'5', "./", "", 0o2755, b"")
        .without("www")
        .folder("new")
        .file("new/./file", "x")
        .fifo("pipe");
    Image::of(&layer, json!({})).load(&node, "hostile.test/odd:1");
    let id = try_launch(
        &node,
        &pod,
        container("odd", "hostile.test/odd:1", &["sleep", "1000"]),
    )
    .unwrap();
    let script = "cat /etc/mtab | head -1 | grep -q overlay; stat -c %a /; /bin/again; ls /www 2>&1; cat /new/file; \
                  test -p /pipe && readlink /up";
    let out = node.exec(&id, &["sh", "-c", script]).ok();
    assert!(
        out.starts_with("2755\ntool\n") && out.contains("No such file") && out.ends_with("x../../../../..\n"),
        "{out}"
    );
}

/// Volumes in the image's configuration bring nothing in and make nothing outside.
#[test]
fn cve_2022_23648_volumes_of_the_image_lead_nowhere() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(pod("volumes"));
    let root = canary.path("");
    let layer = Layer::new()
        .link("data", &root)
        .link("up", "../../../../../../..");
    let volumes = json!({"Volumes": {
        (format!("/../../../../../../..{root}")): {}, (format!("/up{root}")): {}, "/data": {}, "/data/private": {},
        "..": {}, "": {}, "relative": {}, "/proc": {}, "/dev": {}, "/etc/passwd": {},
    }});
    Image::of(&layer, volumes).load(&node, "hostile.test/volumes:1");
    let id = try_launch(
        &node,
        &pod,
        container("volumes", "hostile.test/volumes:1", &["sleep", "1000"]),
    )
    .unwrap();
    let found = node
        .exec(
            &id,
            &[
                "sh",
                "-c",
                "find / -xdev -name secret 2>/dev/null; grep -c canary /proc/mounts",
            ],
        )
        .stdout;
    assert_eq!(found, "0\n");
    canary.assert_unchanged();
}

/// And CVE-2026-53492, CVE-2026-53489, CVE-2024-8676: what an image says about itself controls nothing.
#[test]
fn cve_2026_53488_labels_and_annotations_of_the_image_control_nothing() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(pod("labels"));
    let touch = format!("binary:///bin/touch?{}", canary.path("touched"));
    let names = [
        "containerd.io/restart.loguri",
        "containerd.io/restart.policy",
        "io.containerd.runtime",
        "io.cri-containerd.kind",
        "io.kubernetes.cri-o.Volumes",
        "io.kubernetes.cri.container-type",
        "io.kubernetes.container.logpath",
        "io.criquet.log",
        "criquet.restart",
        "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel",
        "org.criu.checkpoint",
        "io.kubernetes.cri-o.annotations.checkpoint.name",
        "cdi.k8s.io/x",
    ];
    let labels: serde_json::Map<_, _> = names
        .iter()
        .map(|name| (name.to_string(), json!(touch)))
        .collect();
    let mut hostile = Image::of(
        &Layer::new().file("checkpointed.pages", "x"),
        json!({"Labels": labels.clone()}),
    );
    hostile.manifest["annotations"] = json!(labels);
    hostile.manifest["layers"][1]["annotations"] = json!(labels);
    hostile.load(&node, "hostile.test/labels:1");
    let id = try_launch(
        &node,
        &pod,
        container("labels", "hostile.test/labels:1", &["sleep", "1000"]),
    )
    .unwrap();
    let status = node.status(&id);
    for name in names {
        assert!(
            !status.labels.contains_key(name) && !status.annotations.contains_key(name),
            "{name}: {status:?}"
        );
    }
    assert!(status.log_path.ends_with("labels.log"), "{status:?}");
    let request = cri::ImageStatusRequest {
        image: Some(image("hostile.test/labels:1")),
        ..Default::default()
    };
    let found = node.cri().image_status(request).unwrap().image.unwrap();
    assert!(!found.pinned && found.spec.unwrap_or_default().annotations.is_empty());
    node.stop_container(&id, 0);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(
        node.status(&id).state(),
        cri::ContainerState::ContainerExited,
        "nothing restarts it"
    );
    canary.assert_unchanged();
    let checkpoint = cri::CheckpointContainerRequest {
        container_id: id,
        location: canary.path("checkpoint.tar"),
        ..Default::default()
    };
    let error = node
        .cri()
        .wait(async { node.cri().runtime().checkpoint_container(checkpoint).await })
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    canary.assert_unchanged();
}

/// CVE-2026-41567, CVE-2019-14271: programs and libraries of an image run in the container, or not at all.
#[test]
fn cve_2026_41567_nothing_of_the_image_runs_outside() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let script = format!("#!/bin/sh\necho ran >> {}\n", canary.path("touched"));
    let mut layer = Layer::new();
    for name in [
        "unpigz",
        "pigz",
        "gzip",
        "xz",
        "zstd",
        "tar",
        "sh",
        "criquet-shim",
        "newuidmap",
        "iptables",
        "nft",
    ] {
        layer = layer.program(&format!("usr/local/sbin/{name}"), &script);
    }
    layer = layer
        .file("etc/ld.so.preload", "/evil.so\n")
        .file("evil.so", "x")
        .file("etc/nsswitch.conf", "passwd: evil\n");
    let hostile = Image::of(
        &layer,
        json!({"User": "www-data", "WorkingDir": "/usr/local/sbin"}),
    );
    Stub::of(&hostile).pull(&node, "tools/evil:1", None).unwrap();
    hostile.load(&node, "hostile.test/tools:1");
    let pod = node.pod(pod("tools"));
    let command = ["/bin/busybox", "sleep", "1000"];
    let id = try_launch(&node, &pod, container("tools", "hostile.test/tools:1", &command)).unwrap();
    assert_eq!(node.exec(&id, &["/bin/busybox", "id", "-u"]).stdout, "33\n");
    node.remove_container(&id);
    canary.assert_unchanged();
}

/// CVE-2021-41103, CVE-2024-25621: nobody but root gets to what images brought; wrong modes do not outlive a start.
#[test]
fn cve_2021_41103_state_is_roots_alone() {
    let mut node = Node::start();
    let pod = node.pod(pod("modes"));
    let layer = Layer::new()
        .entry(b'0', "su", "", 0o4755, b"x")
        .entry(b'5', "./", "", 0o777, b"");
    Image::of(&layer, json!({})).load(&node, "hostile.test/modes:1");
    let id = try_launch(
        &node,
        &pod,
        container("modes", "hostile.test/modes:1", &["sleep", "1000"]),
    )
    .unwrap();
    let (root, state) = (node.place.folder.join("root"), node.place.state.clone());
    let nobody = |arguments: &[&str]| {
        let all: Vec<&str> = ["--reuid", "65534", "--regid", "65534", "--clear-groups"]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        criquet_tests::run("setpriv", &all)
    };
    let check = |when: &str| {
        for folder in [&root, &state] {
            let folder = folder.to_str().unwrap();
            let out = nobody(&["find", folder, "-mindepth", "1"]);
            assert_eq!(out.stdout, "", "{when}: {folder}");
            let mode = criquet_tests::run("stat", &["-c", "%a", folder]).ok();
            assert_eq!(mode, "700\n", "{when}: {folder}");
        }
    };
    check("at work");
    for folder in [&root, &state] {
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    node.crash();
    check("after a start");
    assert_eq!(node.exec(&id, &["true"]).code, 0);
}
