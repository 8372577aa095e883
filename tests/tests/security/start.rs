//! Images and requests that want the runtime, on its way to the container's first instruction, to step outside.

use std::os::unix::fs::symlink;

use criquet_tests::{BUSYBOX, Node, PATIENCE_S, container, cri, eventually, pod};
use serde_json::json;

use crate::canary::Canary;
use crate::hostile::{Image, Layer};
use crate::probe::{self, sleeper, try_launch, volume};

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867, and CVE-2026-41579 for /dev.
#[test]
fn cve_2019_16884_kernel_folders_of_the_image_are_links() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(pod("links"));
    let up = format!("../../../../../../..{}", canary.path(""));
    let absolute = canary.path("");
    let mut number = 0;
    for name in ["proc", "sys", "dev"] {
        let ways = [
            Layer::new().link(name, &absolute),
            Layer::new().link(name, &up),
            Layer::new().link(name, "chain").link("chain", &absolute),
            Layer::new().link(name, name),
            Layer::new().file(name, ""),
            Layer::new().fifo(name),
            Layer::new().device(name),
        ];
        for (way, layer) in ways.iter().enumerate() {
            number += 1;
            let image = format!("hostile.test/kernel-folder:{number}");
            Image::of(layer, json!({})).load(&node, &image);
            let config = container(&format!("c{number}"), &image, &["sleep", "1000"]);
            let error = try_launch(&node, &pod, config).expect_err(&format!("/{name}, way {way}"));
            assert!(error.message().contains(name), "{error:?}");
        }
    }
    canary.assert_unchanged();
    node.remove_pod(&pod.id);
    node.assert_clean();
}

/// What an image has in /dev, below /sys or as a volume is covered, not followed (CVE-2026-41579, CVE-2026-47766).
#[test]
fn cve_2026_41579_devices_of_the_image_are_covered() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(pod("covered"));
    let file = canary.path("file");
    let mut layer = Layer::new();
    for name in [
        "ptmx",
        "fd",
        "core",
        "stdin",
        "null",
        "console",
        "pts",
        "shm",
        "mqueue",
        "termination-log",
    ] {
        layer = layer.link(&format!("dev/{name}"), &file);
    }
    layer = layer
        .link("sys/fs", &canary.path(""))
        .link("proc/sys", &canary.path(""));
    let volumes = json!({"Volumes": {"/proc": {}, "/sys": {}, "/dev/pts": {}}});
    Image::of(&layer, volumes).load(&node, "hostile.test/covered:1");
    let log = node.work().join("termination");
    std::fs::write(&log, "").unwrap();
    let mut config = container("covered", "hostile.test/covered:1", &["sleep", "1000"]);
    config.tty = true;
    config.mounts = vec![volume(&log.display().to_string(), "/dev/termination-log")];
    let id = try_launch(&node, &pod, config).unwrap();
    for (path, wanted) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/core", ""),
    ] {
        assert_eq!(
            node.exec(&id, &["readlink", path]).stdout.trim(),
            wanted,
            "{path}"
        );
    }
    // 88 is 136, a terminal of devpts (CVE-2025-52565).
    let kinds = node
        .exec(&id, &["stat", "-c", "%t:%T", "/dev/null", "/dev/console"])
        .stdout;
    assert!(kinds.starts_with("1:3\n88:"), "{kinds}");
    assert_eq!(
        node.exec(&id, &["sh", "-c", "echo end > /dev/termination-log"])
            .code,
        0
    );
    assert_eq!(std::fs::read_to_string(log).unwrap(), "end\n");
    canary.assert_unchanged();
}

/// CVE-2018-18837, CVE-2019-18837, CVE-2024-5154, CVE-2024-9341: files that runtimes make through the image's links.
#[test]
fn cve_2018_18837_files_of_the_pod_behind_links() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let mut config = pod("files");
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.9.8.7".into()],
        ..Default::default()
    });
    let pod = node.pod(config);
    let relative = format!("../../../../../../../..{}", canary.path("file"));
    let mut long = Layer::new().link("etc/resolv.conf", "chain0");
    for number in 0..41 {
        long = long.link(&format!("etc/chain{number}"), &format!("chain{}", number + 1));
    }
    let each = |target: &dyn Fn(&str) -> String| {
        [
            "etc/resolv.conf",
            "etc/hosts",
            "etc/hostname",
            "etc/mtab",
            "run/secrets",
            "var/run",
        ]
        .iter()
        .fold(Layer::new(), |layer, name| layer.link(name, &target(name)))
    };
    let all = |target: &str| each(&|_| target.to_string());
    let secret = node.work().join("secret");
    std::fs::create_dir_all(&secret).unwrap();
    let cases = [
        ("absolute", all(&canary.path("file")), false),
        ("relative", all(&relative), false),
        ("dangling", each(&|name| format!("/nowhere/below/{name}")), true),
        ("folder", all(&canary.path("")), false),
        ("long", long, false),
    ];
    for (name, layer, must_run) in cases {
        let image = format!("hostile.test/files:{name}");
        Image::of(&layer, json!({})).load(&node, &image);
        let mut config = container(name, &image, &["sleep", "1000"]);
        config.mounts = vec![volume(&secret.display().to_string(), "/run/secrets/token")];
        match try_launch(&node, &pod, config) {
            Ok(id) => {
                let text = node.exec(&id, &["cat", "/etc/resolv.conf"]).stdout;
                assert_eq!(text, "nameserver 10.9.8.7\n", "{name}");
            }
            Err(error) => assert!(!must_run, "{name}: {error:?}"),
        }
        canary.assert_unchanged();
    }
    assert!(!std::path::Path::new("/nowhere").exists());
}

/// CVE-2024-21626: a descriptor that leaked is a way to the host's folders. None does, and no path leads over one.
#[test]
fn cve_2024_21626_working_dir_fd() {
    let node = Node::start();
    let pod = node.pod(pod("cwd"));
    let mut layer = Layer::new();
    for fd in 0..12 {
        layer = layer.link(&format!("way{fd}"), &format!("/proc/self/fd/{fd}"));
    }
    Image::of(&layer, json!({})).load(&node, "hostile.test/cwd:1");
    for fd in 3..12 {
        for path in [
            format!("/proc/self/fd/{fd}"),
            format!("/proc/self/fd/{fd}/../../../.."),
            format!("/way{fd}"),
            format!("/proc/1/fd/{fd}/deeper"),
        ] {
            let mut config = container(&format!("cwd{fd}"), "hostile.test/cwd:1", &["pwd"]);
            config.working_dir = path.clone();
            assert!(try_launch(&node, &pod, config).is_err(), "{path}");
        }
    }
    for (number, path) in [
        "/proc/self/fd/7",
        "/way8",
        "proc/self/cwd",
        "/proc/self/fd/9/../../..",
    ]
    .iter()
    .enumerate()
    {
        let image = format!("hostile.test/cwd-image:{number}");
        Image::of(&layer, json!({"WorkingDir": path})).load(&node, &image);
        assert!(
            try_launch(&node, &pod, container("image", &image, &["pwd"])).is_err(),
            "{path}"
        );
    }
    // In reach are the streams alone, at the start and in an exec.
    let mut config = container("fds", BUSYBOX, &["/probe", "fds"]);
    config.mounts = vec![probe::mount(&node)];
    let id = node.launch(&pod, config);
    node.wait_exit(&id, PATIENCE_S);
    let told = node.messages(&pod, "fds.log");
    only_streams(&told);
    let id = sleeper(&node, &pod, "exec", |_| {});
    only_streams(&node.exec(&id, &["/probe", "fds"]).ok());
}

fn only_streams(told: &str) {
    let lines: Vec<&str> = told.lines().collect();
    let numbers: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(numbers, ["0", "1", "2", "cwd"], "{told}");
    assert_eq!(lines[3], "cwd /", "{told}");
}

/// CVE-2025-52881: nothing that a container brings lies over procfs, so that no write is led elsewhere.
#[test]
fn cve_2025_52881_no_mount_on_procfs() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(pod("procfs"));
    let fake = node.work().join("fake");
    std::fs::create_dir_all(fake.join("attr")).unwrap();
    symlink("/proc/sysrq-trigger", fake.join("attr/exec")).unwrap();
    let layer = Layer::new().link("alias", "/proc").link("self", "/proc/self");
    Image::of(&layer, json!({})).load(&node, "hostile.test/procfs:1");
    let targets = [
        "/proc/self/attr",
        "/proc/thread-self",
        "/proc/sys",
        "/proc/sys/kernel",
        "/proc/1/attr",
        "/alias/sys",
        "/self/attr",
        "/proc/./self/attr",
        "/proc/new",
    ];
    for (number, target) in targets.iter().enumerate() {
        let mut config = container(&format!("c{number}"), "hostile.test/procfs:1", &["true"]);
        config.mounts = vec![volume(&fake.display().to_string(), target)];
        assert!(try_launch(&node, &pod, config).is_err(), "{target}");
    }
    // Over the whole of it: no procfs is there, so what is written about the process is not written through it.
    let mut config = container("whole", "hostile.test/procfs:1", &["sleep", "1000"]);
    config.mounts = vec![volume(&fake.display().to_string(), "/proc")];
    if let Ok(id) = try_launch(&node, &pod, config) {
        assert_eq!(node.exec(&id, &["ls", "/proc"]).stdout.trim(), "attr");
    }
    canary.assert_unchanged();
    assert!(std::fs::symlink_metadata(fake.join("attr/exec")).is_ok());
}

/// CVE-2024-23652, CVE-2022-21658: what a container leaves in its root is removed without following it.
#[test]
fn cve_2024_23652_removal_follows_no_link() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(pod("removal"));
    let data = node.work().join("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("kept"), "").unwrap();
    let script = format!(
        "mv /data /moved; ln -s {0} /data; rm -rf /home /tmp; ln -s {0} /home; ln -s ../../../../../../../../..{0} /tmp;
         d=/deep; for i in $(seq 200); do d=$d/d; mkdir -p $d; done; ln -s / $d/root; chmod 000 /deep; mkfifo /fifo;
         chmod 7777 / ; touch -- -rf '*' \"$(printf 'a\\nb')\"; echo done",
        canary.path("")
    );
    let mut config = container("removal", BUSYBOX, &["sh", "-c", &script]);
    config.mounts = vec![volume(&data.display().to_string(), "/data/inner")];
    let id = try_launch(&node, &pod, {
        node.pull(BUSYBOX);
        config
    })
    .unwrap();
    let ended = node.wait_exit(&id, PATIENCE_S);
    assert_eq!(ended.exit_code, 0, "{}", node.messages(&pod, "removal.log"));
    node.remove_container(&id);
    node.remove_pod(&pod.id);
    canary.assert_unchanged();
    assert!(data.join("kept").exists());
    node.assert_clean();
}

/// CVE-2021-43784: lengths do not wrap on their way to the shim.
#[test]
fn cve_2021_43784_long_lists_arrive_whole_or_not_at_all() {
    let node = Node::start();
    let pod = node.pod(pod("long"));
    let long = "x".repeat(70_000);
    let mut config = container(
        "args",
        BUSYBOX,
        &["sh", "-c", "echo ${#1} ${#LONG} $(env | wc -l)", "sh", &long],
    );
    let env = |key: String, value: &str| cri::KeyValue {
        key,
        value: value.as_bytes().to_vec(),
    };
    config.envs = vec![env("LONG".into(), &long)];
    config
        .envs
        .extend((0..3000).map(|number| env(format!("E{number}"), "value")));
    let id = node.launch(&pod, config);
    node.wait_exit(&id, PATIENCE_S);
    let told = node.messages(&pod, "args.log");
    let numbers: Vec<u32> = told
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    assert_eq!(numbers[..2], [70_000, 70_000]);
    assert!(numbers[2] >= 3001, "{numbers:?}");
    let folder = node.work().display().to_string();
    let mut many = container("mounts", BUSYBOX, &["true"]);
    many.mounts = (0..5000)
        .map(|number| volume(&folder, &format!("/mnt/{number}")))
        .collect();
    let error = try_launch(&node, &pod, many).unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error:?}");
    // execve's own limit, 128 KiB a string: an error, no cut.
    let too_long = container("huge", BUSYBOX, &["echo", &"y".repeat(200_000)]);
    assert!(try_launch(&node, &pod, too_long).is_err());
}

/// CVE-2019-5736: the image asks the kernel to run the runtime's own program as its interpreter.
#[test]
fn cve_2019_5736_the_runtime_as_interpreter() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(pod("interpreter"));
    let layer = Layer::new()
        .program("run", "#!/proc/self/exe\n")
        .link("exe", "/proc/self/exe");
    Image::of(&layer, json!({"Entrypoint": ["/run"]})).load(&node, "hostile.test/interpreter:1");
    for (name, command) in [
        ("entrypoint", vec![]),
        ("command", vec!["/proc/self/exe", "shim"]),
        ("link", vec!["/exe"]),
    ] {
        if let Ok(id) = try_launch(
            &node,
            &pod,
            container(name, "hostile.test/interpreter:1", &command),
        ) {
            let ended = node.wait_exit(&id, PATIENCE_S);
            assert_ne!(ended.exit_code, 0, "{name}");
        }
    }
    let sleeping = try_launch(
        &node,
        &pod,
        container("exec", "hostile.test/interpreter:1", &["sleep", "1000"]),
    )
    .unwrap();
    let request = cri::ExecSyncRequest {
        container_id: sleeping.clone(),
        cmd: vec!["/run".into()],
        timeout: 5,
    };
    assert!(node.cri().exec_sync(request).is_err_and(|_| true) || node.exec(&sleeping, &["/run"]).code != 0);
    eventually("the container answers", PATIENCE_S, || {
        (node.exec(&sleeping, &["true"]).code == 0).then_some(())
    });
    canary.assert_unchanged();
}
