//! Logs in the CRI's format, and their rotation.

use std::path::Path;

use criquet_tests::{BUSYBOX, Node, container, cri, eventually, pod};

#[test]
fn long_lines_are_split_and_every_line_has_its_time_and_stream() {
    let node = Node::start();
    let pod = node.pod(pod("long"));
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; printf unfinished >&2";
    let id = node.launch(&pod, container("long", BUSYBOX, &["sh", "-c", script]));
    node.wait_exit(&id, 10);
    let text = std::fs::read_to_string(Path::new(&pod.config.log_directory).join("long.log")).unwrap();
    for line in text.lines() {
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        assert_eq!(parts.len(), 4, "{line:.60}");
        assert!(parts[0].contains('T') && parts[0].len() >= 20, "{line:.60}");
        assert!(
            matches!(parts[1], "stdout" | "stderr") && matches!(parts[2], "P" | "F"),
            "{line:.60}"
        );
    }
    let stdout: String = text
        .lines()
        .filter(|line| line.contains(" stdout "))
        .map(|line| line.splitn(4, ' ').nth(3).unwrap())
        .collect();
    assert_eq!(stdout, "x".repeat(40_000));
    assert!(text.contains(" unfinished"), "the end without a newline is there");
}

#[test]
fn a_rotated_log_goes_on_in_a_new_file() {
    let node = Node::start();
    let pod = node.pod(pod("rotate"));
    let id = node.launch(
        &pod,
        container(
            "rotate",
            BUSYBOX,
            &["sh", "-c", "while :; do echo tick; sleep 0.05; done"],
        ),
    );
    let file = Path::new(&pod.config.log_directory).join("rotate.log");
    eventually("a first line", 10, || {
        file.metadata().ok().filter(|meta| meta.len() > 0)
    });
    let old = file.with_extension("old");
    std::fs::rename(&file, &old).unwrap();
    node.cri()
        .reopen_container_log(cri::ReopenContainerLogRequest {
            container_id: id.clone(),
        })
        .unwrap();
    eventually("lines in the new file", 10, || {
        file.metadata().ok().filter(|meta| meta.len() > 0)
    });
    let size = old.metadata().unwrap().len();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(old.metadata().unwrap().len(), size, "the old file is left alone");
    node.stop_container(&id, 0);
    let request = cri::ReopenContainerLogRequest { container_id: id };
    assert!(
        node.cri().reopen_container_log(request).is_err(),
        "a container that is not running has no log to reopen"
    );
}
