//! Volumes of every kind that needs no storage driver.

use serde_json::json;

use crate::kube::{AGNHOST, POD_S, SLEEP, Space, shell};

#[test]
fn projected_volumes_have_all_their_sources_and_follow_changes() {
    let space = Space::new("projected");
    space.ok(&["create", "configmap", "settings", "--from-literal=colour=green"]);
    space.ok(&["create", "secret", "generic", "key", "--from-literal=pin=1234"]);
    let mut container = shell(SLEEP);
    container["volumeMounts"] = json!([{"name": "all", "mountPath": "/all", "readOnly": true}]);
    container["env"] = json!([
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
        {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]);
    space.pod(
        "reader",
        json!({
            "volumes": [{"name": "all", "projected": {"sources": [
                {"configMap": {"name": "settings"}},
                {"secret": {"name": "key", "items": [{"key": "pin", "path": "pin", "mode": 256}]}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
            ]}}],
            "containers": [container],
        }),
    );
    assert_eq!(space.exec("reader", &["cat", "/all/colour"]), "green");
    assert_eq!(space.exec("reader", &["cat", "/all/pin"]), "1234");
    assert_eq!(
        space.exec("reader", &["stat", "-L", "-c", "%a", "/all/pin"]),
        "400\n"
    );
    assert!(
        space
            .exec("reader", &["cat", "/all/labels"])
            .contains("app=\"reader\"")
    );
    assert_eq!(space.exec("reader", &["cat", "/all/token"]).split('.').count(), 3);
    let address = space.exec("reader", &["sh", "-c", "echo $COLOUR $ADDRESS"]);
    assert!(address.starts_with("green 10.244."), "{address}");
    space.ok(&[
        "patch",
        "configmap",
        "settings",
        "-p",
        r#"{"data":{"colour":"red"}}"#,
    ]);
    space.until("the new value", POD_S, || {
        (space.exec("reader", &["cat", "/all/colour"]) == "red").then_some(())
    });
}

#[test]
fn an_image_is_a_volume() {
    let space = Space::new("image-volume");
    let mut container = shell(SLEEP);
    container["volumeMounts"] = json!([
        {"name": "image", "mountPath": "/image"},
        {"name": "image", "mountPath": "/part", "subPath": "uploads"},
    ]);
    space.pod(
        "reader",
        json!({
            "volumes": [{"name": "image", "image": {"reference": AGNHOST}}],
            "containers": [container],
        }),
    );
    assert!(space.exec("reader", &["ls", "/image"]).contains("agnhost-2"));
    assert_eq!(space.exec("reader", &["ls", "/part"]), "");
    assert_ne!(
        space
            .kubectl(&["exec", "reader", "--", "touch", "/image/new"])
            .code,
        0
    );
}

#[test]
fn sub_paths_memory_and_groups() {
    let space = Space::new("volumes");
    let mut container = shell(SLEEP);
    container["volumeMounts"] = json!([
        {"name": "disk", "mountPath": "/disk"},
        {"name": "disk", "mountPath": "/inner", "subPath": "inner/most"},
        {"name": "memory", "mountPath": "/memory"},
        {"name": "disk", "mountPath": "/read-only", "readOnly": true, "recursiveReadOnly": "IfPossible"},
    ]);
    space.pod(
        "writer",
        json!({
            "securityContext": {"fsGroup": 4321, "runAsUser": 1000, "supplementalGroups": [5555]},
            "volumes": [{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}],
            "containers": [container],
        }),
    );
    space.exec("writer", &["sh", "-c", "echo x >/inner/file"]);
    assert_eq!(space.exec("writer", &["cat", "/disk/inner/most/file"]), "x\n");
    assert_eq!(
        space.exec("writer", &["stat", "-c", "%g", "/disk/inner/most/file"]),
        "4321\n"
    );
    assert_eq!(
        space.exec("writer", &["stat", "-f", "-c", "%T", "/memory"]),
        "tmpfs\n"
    );
    let groups = space.exec("writer", &["id", "-G"]);
    assert!(groups.contains("4321") && groups.contains("5555"), "{groups}");
    assert_ne!(
        space
            .kubectl(&["exec", "writer", "--", "touch", "/read-only/y"])
            .code,
        0
    );
}
