//! Controllers: what most users run.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kube::{AGNHOST, AGNHOST_OLD, POD_S, SLEEP, Space, folder, shell, web};

fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [web(8080)]},
            },
        },
    })
}

fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": port}]},
    })
}

fn rolled_out(space: &Space, what: &str) {
    space.ok(&["rollout", "status", what, "--timeout=600s"]);
}

#[test]
fn a_deployment_serves_updates_scales_and_goes() {
    let space = Space::new("deployment");
    space.apply(&deployment("web", 10));
    space.apply(&service("web", 8080));
    rolled_out(&space, "deployment/web");
    space.shell("client", SLEEP);
    // By name through the cluster's DNS and the service's address: different pods answer.
    let mut answers = BTreeSet::new();
    space.until("three pods of the service answered", POD_S, || {
        let out = space.kubectl(&[
            "exec",
            "client",
            "--",
            "timeout",
            "20",
            "wget",
            "-qO-",
            "http://web/hostname",
        ]);
        if out.code == 0 {
            answers.insert(out.stdout);
        }
        (answers.len() >= 3).then_some(())
    });
    space.ok(&["set", "image", "deployment/web", &format!("main={AGNHOST_OLD}")]);
    rolled_out(&space, "deployment/web");
    for pod in space.list("pods", "web") {
        assert!(
            pod["spec"]["containers"][0]["image"] == AGNHOST_OLD
                || !pod["metadata"]["deletionTimestamp"].is_null(),
            "{AGNHOST} is left: {pod}"
        );
    }
    space.ok(&["scale", "deployment/web", "--replicas=30"]);
    rolled_out(&space, "deployment/web");
    space.ok(&["scale", "deployment/web", "--replicas=1"]);
    space.until("29 pods are gone", POD_S, || {
        (space.list("pods", "web").len() == 1).then_some(())
    });
    space.delete("deployment/web");
    space.until("the last pod is gone", POD_S, || {
        space.list("pods", "web").is_empty().then_some(())
    });
}

#[test]
fn a_stateful_set_keeps_its_volume() {
    let space = Space::new("stateful");
    let volume = format!("{}-data", space.name);
    space.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
        "spec": {
            "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": space.name,
            "hostPath": {"path": folder().join("volume-stateful"), "type": "DirectoryOrCreate"},
        },
    }));
    space.apply(&service("db", 1234));
    let mut container = shell(&format!("echo \"$HOSTNAME\" >>/data/starts; {SLEEP}"));
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    space.apply(&json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {
            "serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
            },
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {
                    "accessModes": ["ReadWriteOnce"], "storageClassName": space.name,
                    "resources": {"requests": {"storage": "1Mi"}},
                },
            }],
        },
    }));
    // A pod counts as ready before its script has come far.
    let starts_are = |wanted: &str| {
        space.until("the start is written down", POD_S, || {
            let found = space.kubectl(&["exec", "db-0", "--", "cat", "/data/starts"]);
            (found.stdout == wanted).then_some(())
        });
    };
    rolled_out(&space, "statefulset/db");
    starts_are("db-0\n");
    space.delete("pod/db-0");
    space.ready("db-0");
    starts_are("db-0\ndb-0\n");
    space.delete("statefulset/db");
    space.ok(&["delete", "pvc", "--all", "--timeout=300s"]);
    space.delete(&format!("persistentvolume/{volume}"));
}

#[test]
fn a_daemon_set_runs_on_the_node() {
    let space = Space::new("daemonset");
    space.apply(&json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {
                "metadata": {"labels": {"app": "agent"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [shell(SLEEP)]},
            },
        },
    }));
    rolled_out(&space, "daemonset/agent");
    assert_eq!(space.list("pods", "agent").len(), 1);
}

#[test]
fn jobs_complete_and_failed_ones_are_tried_again() {
    let space = Space::new("job");
    let job = |name: &str, script: &str, completions: u32| {
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {
                "completions": completions, "parallelism": 3, "backoffLimit": 1,
                "template": {"spec": {"restartPolicy": "Never", "containers": [shell(script)]}},
            },
        })
    };
    space.apply(&job("good", "echo done", 6));
    space.apply(&job("bad", "exit 3", 1));
    space.ok(&["wait", "--for=condition=Complete", "job/good", "--timeout=300s"]);
    space.ok(&["wait", "--for=condition=Failed", "job/bad", "--timeout=300s"]);
    assert_eq!(space.get("job/good")["status"]["succeeded"], 6);
    assert_eq!(space.get("job/bad")["status"]["failed"], 2);
}

#[test]
fn a_cron_job_makes_a_job_every_minute() {
    let space = Space::new("cronjob");
    space.apply(&json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"},
        "spec": {
            "schedule": "* * * * *",
            "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [shell("date")],
            }}}},
        },
    }));
    space.until("the first job has run", POD_S, || {
        let status = &space.get("cronjob/tick")["status"];
        status["lastSuccessfulTime"].is_string().then_some(())
    });
}
