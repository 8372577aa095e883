//! What a pod's security context asks for.

use serde_json::json;

use crate::kube::{SLEEP, Space, folder, shell};

#[test]
fn a_pod_with_users_of_its_own_runs_with_volumes() {
    let space = Space::new("user-namespace");
    space.ok(&["create", "configmap", "settings", "--from-literal=key=value"]);
    let mut container = shell(SLEEP);
    container["volumeMounts"] = json!([
        {"name": "disk", "mountPath": "/disk"}, {"name": "settings", "mountPath": "/settings"},
    ]);
    space.pod(
        "mapped",
        json!({
            "hostUsers": false,
            "volumes": [{"name": "disk", "emptyDir": {}}, {"name": "settings", "configMap": {"name": "settings"}}],
            "containers": [container],
        }),
    );
    let map = space.exec("mapped", &["cat", "/proc/self/uid_map"]);
    let fields: Vec<u64> = map
        .split_whitespace()
        .map(|n| n.parse().expect("a number"))
        .collect();
    assert_eq!(fields[0], 0);
    assert!(fields[1] >= 65536 && fields[2] == 65536, "{map}");
    assert_eq!(
        space.exec("mapped", &["sh", "-c", "echo x >/disk/f; stat -c %u /disk/f"]),
        "0\n"
    );
    assert_eq!(space.exec("mapped", &["cat", "/settings/key"]), "value");
    assert_eq!(space.exec("mapped", &["stat", "-c", "%u", "/bin/busybox"]), "0\n");
}

#[test]
fn seccomp_profiles_hold() {
    let space = Space::new("seccomp");
    let seccomp = |profile: serde_json::Value| json!({"seccompProfile": profile});
    let mode = |pod: &str| space.exec(pod, &["grep", "^Seccomp:", "/proc/1/status"]);
    space.pod(
        "default",
        json!({"securityContext": seccomp(json!({"type": "RuntimeDefault"})), "containers": [shell(SLEEP)]}),
    );
    assert!(mode("default").contains('2'));
    // Not even with the capability for it.
    assert_ne!(
        space
            .kubectl(&["exec", "default", "--", "unshare", "-U", "true"])
            .code,
        0
    );

    let profiles = folder().join("kubelet/seccomp");
    std::fs::create_dir_all(&profiles).expect("create the profiles' folder");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    });
    std::fs::write(profiles.join("no-folders.json"), profile.to_string()).expect("write the profile");
    let local = json!({"type": "Localhost", "localhostProfile": "no-folders.json"});
    space.pod(
        "local",
        json!({"securityContext": seccomp(local), "containers": [shell(SLEEP)]}),
    );
    let out = space.kubectl(&["exec", "local", "--", "mkdir", "/tmp/x"]);
    assert!(out.code != 0 && out.stderr.contains("not permitted"), "{out:?}");

    space.pod(
        "none",
        json!({"securityContext": seccomp(json!({"type": "Unconfined"})), "containers": [shell(SLEEP)]}),
    );
    assert!(mode("none").contains('0'));
}

#[test]
fn sysctls_are_the_pods_own() {
    let space = Space::new("sysctl");
    space.pod(
        "tuned",
        json!({
            "securityContext": {"sysctls": [
                {"name": "net.ipv4.ip_local_port_range", "value": "20000 20100"},
                {"name": "kernel.shm_rmid_forced", "value": "1"},
                {"name": "net.core.somaxconn", "value": "777"},
            ]},
            "containers": [shell(SLEEP)],
        }),
    );
    let read = |name: &str| space.exec("tuned", &["cat", &format!("/proc/sys/{name}")]);
    assert_eq!(read("net/ipv4/ip_local_port_range"), "20000\t20100\n");
    assert_eq!(read("kernel/shm_rmid_forced"), "1\n");
    assert_eq!(read("net/core/somaxconn"), "777\n");
}

#[test]
fn capabilities_users_and_read_only_roots() {
    let space = Space::new("context");
    let mut container = shell(SLEEP);
    container["securityContext"] = json!({
        "runAsUser": 1234, "runAsGroup": 2345, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    });
    space.pod("small", json!({"containers": [container]}));
    assert_eq!(space.exec("small", &["sh", "-c", "id -u; id -g"]), "1234\n2345\n");
    assert_ne!(space.kubectl(&["exec", "small", "--", "touch", "/x"]).code, 0);
    let status = space.exec("small", &["cat", "/proc/1/status"]);
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains("CapBnd:\t0000000000000400"), "{status}");

    let mut privileged = shell(SLEEP);
    privileged["securityContext"] = json!({"privileged": true});
    space.pod("large", json!({"containers": [privileged]}));
    assert!(
        space
            .exec(
                "large",
                &[
                    "sh",
                    "-c",
                    "mount -t tmpfs x /mnt 2>&1 || mkdir -p /mnt && mount -t tmpfs x /mnt && echo ok"
                ]
            )
            .contains("ok")
    );
}
