//! The ways in which a container ends.

use criquet_proto::shim::{Namespace, cgroup, namespace, reply};

use crate::client::exit_of;
use crate::host::{Host, eventually, process};

#[test]
fn all_output_is_logged_before_the_exit() {
    for _ in 0..5 {
        let c = Host::shell("seq 1 20000; echo -n end").start();
        assert_eq!(c.wait().code, 0);
        let log = c.host.log();
        assert_eq!(log.len(), 20_001);
        assert!(
            log.iter()
                .take(20_000)
                .enumerate()
                .all(|(i, (_, tag, text))| tag == "F" && *text == (i + 1).to_string())
        );
        assert_eq!(log[20_000], ("stdout".into(), "P".into(), "end".into()));
    }
}

#[test]
fn what_a_container_on_the_hosts_pids_leaves_is_killed() {
    let mut host = Host::shell("setsid sleep 1000 & echo $!; sleep 0.2; exit 1");
    host.plan.namespaces.as_mut().unwrap().pid = Some(Namespace {
        kind: namespace::Kind::Host.into(),
        fd: 0,
    });
    let mut c = host.start();
    assert_eq!(c.wait().code, 1);
    // The leftover held the pipes: it had to go first.
    let leftover: u32 = c.host.log()[0].2.parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{leftover}/stat"));
    assert!(
        stat.as_ref().map_or(true, |text| text.contains(") Z ")),
        "{stat:?}"
    );
    c.shim.end();
    assert!(!c.host.has_cgroup());
}

#[test]
fn an_exec_ends_with_its_container() {
    let c = Host::shell("sleep 1000").start();
    let other = c.connect();
    other.exec(&process(&["sleep", "1000"]), [None; 3]);
    c.client.signal(9, false);
    assert_eq!(c.wait().signal, 9);
    assert_eq!(exit_of(other.receive().0).signal, 9);
}

#[test]
fn a_kill_for_want_of_memory_is_told() {
    let mut host = Host::shell("x=0123456789abcdef; while true; do x=$x$x; done");
    let cgroup = host.plan.cgroup.as_mut().unwrap();
    let v2 = cgroup.v2;
    let Some(dir) = cgroup
        .dirs
        .iter_mut()
        .find(|dir| v2 || dir.controllers == "memory")
    else {
        return;
    };
    let file = |name: &str, value: &str, optional| cgroup::File {
        name: name.into(),
        value: value.into(),
        optional,
    };
    dir.files = if v2 {
        vec![
            file("memory.max", "16777216", false),
            file("memory.swap.max", "0", true),
        ]
    } else {
        vec![
            file("memory.limit_in_bytes", "16777216", false),
            file("memory.swappiness", "0", true),
        ]
    };
    let c = host.start();
    let exit = c.wait();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, 9, true));
}

#[test]
fn a_killed_shim_takes_its_container_along() {
    let c = Host::shell("sleep 1000").start();
    let reply::Kind::State(state) = c
        .client
        .call(
            criquet_proto::shim::request::Kind::Inspect(Default::default()),
            &[],
        )
        .0
    else {
        panic!()
    };
    drop(c.shim);
    let stat = format!("/proc/{}/stat", state.pid);
    eventually(|| std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z ")));
}

#[test]
fn a_v2_cgroup_is_emptied_and_removed() {
    let script = "trap 'exit 1' TERM; setsid sleep 1000 & echo started; while :; do sleep 0.05; done";
    let mut host = Host::shell(script);
    let cgroup = host.plan.cgroup.as_mut().unwrap();
    // A hybrid host has a v2 hierarchy too.
    cgroup
        .dirs
        .retain(|dir| dir.controllers.is_empty() || dir.controllers == "unified");
    if cgroup.dirs.is_empty() {
        return;
    }
    cgroup.v2 = true;
    let path = std::path::PathBuf::from(&cgroup.dirs[0].path);
    host.plan.namespaces.as_mut().unwrap().pid = Some(Namespace {
        kind: namespace::Kind::Host.into(),
        fd: 0,
    });
    let mut c = host.start();
    eventually(|| !c.host.log().is_empty());
    let inner = path.join("inner");
    std::fs::create_dir(&inner).unwrap();
    let processes = std::fs::read_to_string(path.join("cgroup.procs")).unwrap();
    assert!(processes.lines().count() >= 2, "{processes}");
    assert!(matches!(c.client.signal(15, false), reply::Kind::Done(_)));
    assert_eq!(c.wait().code, 1);
    c.shim.end();
    assert!(!c.host.has_cgroup());
}
