//! A container's life as a kubelet leads it: probes, hooks, init containers, restarts, ends.

use std::time::Duration;

use serde_json::json;

use crate::kube::{AGNHOST, BUSYBOX, NODE, POD_S, SLEEP, Space, agnhost, folder, shell};

#[test]
fn probes_of_every_kind_pass() {
    let space = Space::new("probes");
    let probe = |what: serde_json::Value| {
        let mut all = json!({"periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 200});
        all.as_object_mut()
            .expect("an object")
            .extend(what.as_object().expect("an object").clone());
        json!({"readinessProbe": all, "startupProbe": all})
    };
    let with = |mut container: serde_json::Value, name: &str, what: serde_json::Value| {
        let probes = probe(what);
        container["name"] = json!(name);
        container["readinessProbe"] = probes["readinessProbe"].clone();
        container["startupProbe"] = probes["startupProbe"].clone();
        container
    };
    let exec = shell(&format!("sleep 1; touch /tmp/up; {SLEEP}"));
    let web = agnhost(&["netexec", "--http-port=8080", "--udp-port=-1"]);
    let tcp = agnhost(&["netexec", "--http-port=8081", "--udp-port=-1"]);
    let grpc = agnhost(&["grpc-health-checking", "--port=5050", "--http-port=8082"]);
    space.pod(
        "all",
        json!({"containers": [
            with(exec, "exec", json!({"exec": {"command": ["test", "-e", "/tmp/up"]}})),
            with(web, "http", json!({"httpGet": {"path": "/", "port": 8080}})),
            with(tcp, "tcp", json!({"tcpSocket": {"port": 8081}})),
            with(grpc, "grpc", json!({"grpc": {"port": 5050}})),
        ]}),
    );
    for name in ["exec", "http", "tcp", "grpc"] {
        assert_eq!(space.container("all", name)["restartCount"], 0, "{name}");
    }
}

#[test]
fn a_failing_liveness_probe_restarts_the_container() {
    let space = Space::new("liveness");
    let mut container = shell(&format!("touch /tmp/up; sleep 3; rm /tmp/up; {SLEEP}"));
    container["livenessProbe"] =
        json!({"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 1});
    space.create_pod("sick", json!({"containers": [container]}));
    space.until("a restart", POD_S, || {
        (space.container("sick", "main")["restartCount"].as_u64()? >= 1).then_some(())
    });
}

#[test]
fn a_probe_that_hangs_times_out_and_leaves_no_process() {
    let space = Space::new("slow-probe");
    let mut container = shell(SLEEP);
    container["readinessProbe"] =
        json!({"exec": {"command": ["sleep", "12345"]}, "periodSeconds": 1, "timeoutSeconds": 1});
    space.create_pod("slow", json!({"containers": [container]}));
    space.phase("slow", "Running");
    space.until("the time-out is told", POD_S, || {
        let events = space.ok(&["get", "events", "-o", "jsonpath={.items[*].message}"]);
        events.contains("timed out").then_some(())
    });
    // Time for some more: if they stayed, they would pile up.
    std::thread::sleep(Duration::from_secs(8));
    // One may be running, an older one may not. The brackets keep the pattern from finding itself.
    space.until("no more than one probe is running", POD_S, || {
        let running = space.exec("slow", &["sh", "-c", "pgrep -f 'sleep 1234[5]' | wc -l"]);
        let count: u32 = running.trim().parse().expect("a number");
        (count <= 1).then_some(())
    });
}

#[test]
fn hooks_run_after_the_start_and_before_the_end() {
    let space = Space::new("hooks");
    let shared = folder().join("hooks");
    // Of an earlier run on the same cluster.
    let _ = std::fs::remove_dir_all(&shared);
    let mut container = shell(SLEEP);
    container["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
    container["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["sh", "-c", "echo started >/shared/post"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo stopping >/shared/pre"]}},
    });
    space.pod(
        "hooked",
        json!({
            "terminationGracePeriodSeconds": 120,
            "volumes": [{"name": "shared", "hostPath": {"path": shared, "type": "DirectoryOrCreate"}}],
            "containers": [container],
        }),
    );
    space.until("postStart ran", POD_S, || {
        (space
            .kubectl(&["exec", "hooked", "--", "cat", "/shared/post"])
            .stdout
            == "started\n")
            .then_some(())
    });
    space.delete("pod/hooked");
    assert_eq!(
        std::fs::read_to_string(shared.join("pre")).expect("preStop ran"),
        "stopping\n"
    );
}

#[test]
fn init_containers_run_in_order_and_sidecars_go_on() {
    let space = Space::new("init");
    let step = |name: &str, script: &str| {
        json!({
            "name": name, "image": BUSYBOX, "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "work", "mountPath": "/work"}],
        })
    };
    let mut sidecar = step("sidecar", &format!("echo sidecar >>/work/order; {SLEEP}"));
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] =
        json!({"exec": {"command": ["grep", "sidecar", "/work/order"]}, "periodSeconds": 1});
    let main = step("main", "echo main >>/work/order; cat /work/order; exec sleep 2");
    space.create_pod(
        "ordered",
        json!({
            "restartPolicy": "Never",
            "volumes": [{"name": "work", "emptyDir": {}}],
            "initContainers": [
                step("first", "echo first >>/work/order"),
                sidecar,
                step("third", "echo third >>/work/order"),
            ],
            "containers": [main],
        }),
    );
    // The sidecar does not keep the pod from completing.
    space.phase("ordered", "Succeeded");
    let order = space.ok(&["logs", "ordered", "-c", "main"]);
    assert_eq!(order, "first\nsidecar\nthird\nmain\n");
}

#[test]
fn a_container_that_fails_is_restarted_and_its_last_log_is_kept() {
    let space = Space::new("restarts");
    space.create_pod(
        "crash",
        json!({"containers": [shell("echo attempt; echo last words >/dev/termination-log; exit 7")]}),
    );
    let status = space.until("two restarts", POD_S, || {
        let status = space.container("crash", "main");
        (status["restartCount"].as_u64()? >= 2 && status["lastState"]["terminated"].is_object())
            .then_some(status)
    });
    let last = &status["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 7);
    assert_eq!(last["message"], "last words\n");
    assert_eq!(last["reason"], "Error");
    // The one before may be on its way out just when it is asked for.
    space.until("the log of the container before", POD_S, || {
        (space.kubectl(&["logs", "-p", "crash"]).stdout == "attempt\n").then_some(())
    });
}

#[test]
fn a_termination_message_may_come_from_the_log() {
    let space = Space::new("message");
    let mut container = shell("echo out of ideas; exit 1");
    container["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    space.create_pod(
        "spoke",
        json!({"restartPolicy": "Never", "containers": [container]}),
    );
    space.phase("spoke", "Failed");
    let ended = space.container("spoke", "main");
    assert_eq!(ended["state"]["terminated"]["message"], "out of ideas\n");
}

#[test]
fn a_container_beyond_its_memory_is_oom_killed() {
    let space = Space::new("oom");
    let mut container = shell("head -c 100m /dev/zero | tail -c 100m >/dev/null; echo survived");
    container["command"] = json!(["sh", "-c", "exec tail -c 200m /dev/zero"]);
    container["resources"] = json!({"limits": {"memory": "20Mi"}});
    space.create_pod(
        "greedy",
        json!({"restartPolicy": "Never", "containers": [container]}),
    );
    space.phase("greedy", "Failed");
    let ended = space.container("greedy", "main");
    assert_eq!(ended["state"]["terminated"]["reason"], "OOMKilled", "{ended}");
    assert_eq!(ended["state"]["terminated"]["exitCode"], 137);
}

#[test]
fn logs_rotate_and_lose_nothing_on_the_way() {
    let number = |line: &str| line.strip_prefix("line ")?.split(' ').next()?.parse::<u32>().ok();
    let space = Space::new("rotation");
    // It goes on, slowly: a log that was exchanged after its last line would show nothing any more.
    let script = "i=0; while :; do i=$((i+1)); echo \"line $i of a log that is rotated more than once\"; \
                  [ $i -lt 60000 ] && [ $((i % 6000)) != 0 ] || sleep 1; done";
    space.shell("chatty", script);
    let logs = folder().join("var-log/pods");
    let uid = space.get("pod/chatty")["metadata"]["uid"]
        .as_str()
        .expect("uid")
        .to_string();
    let pod = logs.join(format!("{}_chatty_{uid}", space.name)).join("main");
    // The limit in the kubelet's configuration is 1 MiB.
    space.until("a rotated log", POD_S, || {
        let files = std::fs::read_dir(&pod).ok()?.flatten().count();
        (files >= 2).then_some(())
    });
    space.until("the last line", POD_S, || {
        // The log may be exchanged just when it is asked for.
        let last = space.kubectl(&["logs", "chatty", "--tail=1"]).stdout;
        (number(&last)? >= 60_000).then_some(())
    });
    let newest = space.until("lines of the newest log", POD_S, || {
        let text = space.kubectl(&["logs", "chatty"]).stdout;
        Some(text).filter(|text| !text.is_empty())
    });
    let numbers: Vec<u32> = newest.lines().map(|line| number(line).expect(line)).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{numbers:?}"
    );
}

#[test]
fn pods_in_files_are_mirrored_and_go_with_their_file() {
    let space = Space::new("static");
    let manifest = folder().join("manifests/static.yaml");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "fixed", "namespace": space.name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [shell(SLEEP)]},
    });
    std::fs::write(&manifest, pod.to_string()).expect("write the manifest");
    let name = format!("fixed-{NODE}");
    space.until("the mirror pod", POD_S, || space.find(&format!("pod/{name}")));
    space.ready(&name);
    std::fs::remove_file(&manifest).expect("remove the manifest");
    space.until("the pod is gone", POD_S, || {
        space.find(&format!("pod/{name}")).is_none().then_some(())
    });
}

#[test]
fn a_resize_in_place_restarts_nothing() {
    let space = Space::new("resize");
    let mut container = shell(SLEEP);
    container["resources"] = json!({
        "requests": {"cpu": "100m", "memory": "50Mi"}, "limits": {"cpu": "100m", "memory": "50Mi"},
    });
    space.pod("elastic", json!({"containers": [container]}));
    let limits = |space: &Space| {
        let script = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null \
                      || cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max";
        space.exec("elastic", &["sh", "-c", script])
    };
    let before = limits(&space);
    assert!(
        before.starts_with("10000") && before.contains("52428800"),
        "{before}"
    );
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": {
        "requests": {"cpu": "200m", "memory": "80Mi"}, "limits": {"cpu": "200m", "memory": "80Mi"},
    }}]}});
    space.ok(&[
        "patch",
        "pod",
        "elastic",
        "--subresource",
        "resize",
        "-p",
        &patch.to_string(),
    ]);
    space.until("the new limits are in the cgroup", POD_S, || {
        let now = limits(&space);
        (now.starts_with("20000") && now.contains("83886080")).then_some(())
    });
    space.until("the new limits are in the status", POD_S, || {
        let status = space.container("elastic", "main");
        (status["resources"]["limits"]["memory"] == "80Mi").then_some(())
    });
    assert_eq!(space.container("elastic", "main")["restartCount"], 0);
}

#[test]
fn an_image_that_is_not_there_is_told_and_tried_again() {
    let space = Space::new("no-image");
    let missing = AGNHOST.replace("agnhost:", "nobody-made-this:");
    space.create_pod(
        "missing",
        json!({"containers": [{"name": "main", "image": missing}]}),
    );
    space.until("the reason", POD_S, || {
        let waiting = space.container("missing", "main")["state"]["waiting"]["reason"].clone();
        (waiting == "ImagePullBackOff" || waiting == "ErrImagePull").then_some(())
    });
    space.delete("pod/missing");
}
