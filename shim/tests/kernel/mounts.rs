//! What a container sees: layers, volumes, devices, masks.

use crate::container::{self, Container, maps};
use criquet_proto::shim::{Device, Mount, failed::Kind, mount};

pub(crate) fn masks() {
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        container.plan.masked_paths = [
            "/proc/version",
            "/proc/cpuinfo",
            "/sys/firmware",
            "/proc/tty",
            "/no/such",
        ]
        .map(String::from)
        .into();
        container.plan.readonly_paths = ["/proc/sys", "/proc/irq"].map(String::from).into();
        let text = container.shell(
            "cat /proc/version /proc/cpuinfo; ls /sys/firmware /proc/tty; touch /proc/tty/x; echo 1 > /proc/sys/vm/swappiness; \
             grep ' /proc/tty ' /proc/self/mountinfo; ls -ln /proc/version",
        );
        assert!(text.contains("tmpfs") && text.contains("1,   3"), "{text}");
        assert_eq!(text.matches("Read-only").count(), 2, "{text}");
    }
}

pub(crate) fn volumes() {
    let mut container = Container::new();
    let host = container.folder("volume");
    std::fs::write(host.join("file"), "content").unwrap();
    let bind = |source: &std::path::Path, target: &str| Mount {
        source: source.display().to_string(),
        target: target.into(),
        ..Default::default()
    };
    container.mount(bind(&host, "/data/deep"));
    container.mount(Mount {
        readonly: true,
        noexec: true,
        ..bind(&host, "/readonly")
    });
    container.mount(Mount {
        recursive_readonly: true,
        ..bind(&host, "/rro")
    });
    container.mount(bind(&host.join("file"), "/etc/one/file"));
    container.mount(Mount {
        kind: mount::Kind::Tmpfs.into(),
        target: "/scratch".into(),
        options: vec!["size=64k".into(), "mode=0711".into()],
        ..Default::default()
    });
    let text = container.shell("cat /data/deep/file /etc/one/file; echo x > /data/deep/new; touch /readonly/no /rro/no; ls -ld /scratch; echo y > /dev/shm/z; ls /dev/mqueue; id");
    assert!(
        text.contains("contentcontent")
            && text.matches("Read-only").count() == 2
            && text.contains("drwx--x--x"),
        "{text}"
    );
    assert_eq!(std::fs::read(host.join("new")).unwrap(), b"x\n");
    container.mount(bind(std::path::Path::new("/no/such/source"), "/x"));
    let failure = container.fails();
    assert!(
        failure.kind == Kind::NotFound && failure.message.contains("/no/such/source"),
        "{failure:?}"
    );
}

pub(crate) fn mapped_volume() {
    use std::os::unix::fs::MetadataExt as _;
    let mut container = Container::new();
    container.user_namespace();
    let host = container.folder("volume");
    std::fs::write(host.join("file"), "content").unwrap();
    for (target, start) in [("/same", container::HOST_ID), ("/other", 300_000)] {
        let maps = maps(start);
        container.mount(Mount {
            source: host.display().to_string(),
            target: target.into(),
            uid_maps: maps.clone(),
            gid_maps: maps,
            ..Default::default()
        });
    }
    let text = container.shell("ls -ln /same/file /other/file; echo x > /same/new");
    assert!(text.contains(" 0        0 ") && text.contains("65534"), "{text}");
    assert_eq!(std::fs::metadata(host.join("new")).unwrap().uid(), 0);
}

pub(crate) fn image_volume() {
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        let layers = ["one", "two"].map(|name| {
            let layer = container.folder(name);
            std::fs::create_dir_all(layer.join("sub")).unwrap();
            std::fs::write(layer.join("sub").join(name), name).unwrap();
            layer.display().to_string()
        });
        let image = |target: &str, lower: &[String], sub_path: &str| Mount {
            kind: mount::Kind::Image.into(),
            target: target.into(),
            lower: lower.to_vec(),
            sub_path: sub_path.into(),
            uid_maps: if user {
                maps(container::HOST_ID)
            } else {
                Vec::new()
            },
            gid_maps: if user {
                maps(container::HOST_ID)
            } else {
                Vec::new()
            },
            readonly: true,
            ..Default::default()
        };
        container.mount(image("/both", &layers, ""));
        container.mount(image("/part", &layers, "sub"));
        container.mount(image("/single", &layers[..1], ""));
        let text = container.shell(
            "cat /both/sub/one /part/two /single/sub/one; touch /both/x /part/x /single/x; ls -ln /part",
        );
        assert!(
            text.contains("onetwoone") && text.matches("Read-only").count() == 3,
            "{text}"
        );
        assert!(!text.contains("65534"), "{text}");
        container.mount(image("/missing", &layers, "missing"));
        assert_eq!(container.fails().kind, Kind::NotFound);
    }
}

pub(crate) fn devices() {
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        let device = |path: &str, uid| Device {
            path: path.into(),
            host_path: "/dev/zero".into(),
            r#type: "c".into(),
            major: 1,
            minor: 5,
            mode: 0o640,
            uid,
            gid: 7,
        };
        container.plan.devices = vec![
            device("/dev/deep/zero", 3),
            device("/dev/null", 0),
            device("/outside", 0),
        ];
        let text = container.shell("ls -ln /dev/deep/zero /dev/null /outside; head -c 3 /dev/deep/zero | od; head -c 3 /outside | od; ls -l /dev; cat < /dev/tty");
        assert!(
            text.contains("crw-r-----    1 3        7           1,   5"),
            "{text}"
        );
        assert!(
            text.contains("crw-rw-rw-    1 0        0           1,   3"),
            "{text}"
        );
        assert_eq!(text.matches("000000 000000").count(), 2, "{text}");
    }
}

pub(crate) fn many_layers() {
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        for i in 0..40 {
            let layer = container.folder(&format!(
                "a-layer-with-a-name-as-long-as-a-digest-in-hexadecimal-is-{i:04}"
            ));
            std::fs::write(layer.join(format!("file{i}")), i.to_string()).unwrap();
            container
                .plan
                .rootfs
                .as_mut()
                .unwrap()
                .lower
                .insert(0, layer.display().to_string());
        }
        assert_eq!(
            container.shell("cat /file0 /file39; ls -n / | grep -c 65534"),
            if user { "0392\n" } else { "0390\n" }
        );
    }
}

pub(crate) fn read_only() {
    let mut container = Container::new();
    container.plan.rootfs.as_mut().unwrap().readonly = true;
    let text = container.shell("touch /x; touch /dev/shm/y && echo shm");
    assert!(text.contains("Read-only") && text.contains("shm"), "{text}");
    let mut container = Container::new();
    let rootfs = container.plan.rootfs.as_mut().unwrap();
    (rootfs.upper, rootfs.work) = (String::new(), String::new());
    assert!(container.shell("touch /x; echo ran").contains("Read-only"));
}

pub(crate) fn foreign_dev() {
    let mut container = Container::new();
    container.plan.mounts.insert(
        0,
        Mount {
            source: "/dev".into(),
            target: "/dev".into(),
            ..Default::default()
        },
    );
    container.process().terminal = true;
    let text = container.shell("tty; ls /dev/pts; echo x > /dev/shm/criquet-test && echo shm");
    assert_eq!(text, "/dev/pts/0\r\n0     ptmx\r\nshm\r\n");
    assert!(!std::path::Path::new("/dev/shm/criquet-test").exists());
}

pub(crate) fn tried_again() {
    let mut container = Container::new();
    container.process().cwd = "/proc/self/fd/1".into();
    container.fails();
    container.process().cwd = "/".into();
    assert_eq!(container.shell("echo ran"), "ran\n");
}
