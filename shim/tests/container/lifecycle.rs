//! From Create to the exit record.

use criquet_proto::shim::{Inspect, ReopenLog, Start, failed, reply, request, state};
use criquet_sys::pidfd::Ended;

use crate::client::{Client, Shim, failure_of};
use crate::host::{Host, eventually};

fn line(stream: &str, text: &str) -> (String, String, String) {
    (stream.into(), "F".into(), text.into())
}

#[test]
fn a_container_runs_logs_and_ends() {
    let mut c = Host::shell("echo out; echo err >&2; exit 7").start();
    let exit = c.wait();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, 0, false));
    assert!(exit.started_at_ns > 0 && exit.finished_at_ns >= exit.started_at_ns);
    assert_eq!(c.host.exit_record(), Some(exit));
    let mut log = c.host.log();
    log.sort();
    assert_eq!(log, [line("stderr", "err"), line("stdout", "out")]);
    assert_eq!(c.shim.end(), Ended::Exited(0));
    assert!(!c.host.has_cgroup());
    let left: Vec<_> = std::fs::read_dir(c.host.state_dir())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["exit"]);
}

#[test]
fn another_daemon_takes_over() {
    let c = Host::shell("echo one; read line </dev/null; sleep 1000").start();
    let other = c.connect();
    drop(c.client);
    let (reply::Kind::State(state), _) = other.call(request::Kind::Inspect(Inspect {}), &[]) else {
        panic!()
    };
    assert_eq!((state.phase(), state.exit), (state::Phase::Running, None));
    drop(other);
    let third = Client::connect(&c.host.state_dir());
    assert!(matches!(third.signal(15, false), reply::Kind::Done(_)));
    // Process 1 without a handler does not see signals from its own namespace alone; ours ends it only if fatal.
    assert!(matches!(third.signal(9, false), reply::Kind::Done(_)));
    let exit = third.wait().unwrap_or_else(|| c.host.exit_record().unwrap());
    assert!(
        exit.signal == 9 && exit.code == 137 || exit.signal == 15 && exit.code == 143,
        "{exit:?}"
    );
}

#[test]
fn a_created_container_waits_for_the_next_daemon() {
    let c = Host::shell("exit 3").create();
    drop(c.client);
    let other = Client::connect(&c.host.state_dir());
    assert!(matches!(other.start(), reply::Kind::Started(_)));
    assert_eq!(
        other.wait().unwrap_or_else(|| c.host.exit_record().unwrap()).code,
        3
    );
}

#[test]
fn a_shim_without_a_container_goes_with_its_connection() {
    let (mut shim, socket) = Shim::spawn("none");
    drop(Client::new(socket));
    assert_eq!(shim.end(), Ended::Exited(0));
}

#[test]
fn a_missing_program_is_told_and_recorded() {
    let mut c = Host::new(&["no-such-program"]).create();
    let failed = failure_of(c.client.start());
    assert_eq!(failed.kind(), failed::Kind::NotFound, "{}", failed.message);
    let exit = c.wait();
    assert_eq!((exit.code, &exit.message), (127, &failed.message));
    assert_eq!(c.host.exit_record(), Some(exit));
    assert_eq!(c.shim.end(), Ended::Exited(0));
    assert!(!c.host.has_cgroup());
}

#[test]
fn a_bad_plan_leaves_nothing() {
    let host = Host::shell("true");
    let mut plan = host.plan.clone();
    plan.rootfs.as_mut().unwrap().lower = vec!["/no/such/layer".into()];
    let (mut shim, socket) = Shim::spawn("bad");
    let client = Client::new(socket);
    assert!(!failure_of(client.create(&plan)).message.is_empty());
    shim.end();
    assert!(!host.has_cgroup());
    assert_eq!(std::fs::read_dir(host.state_dir()).unwrap().count(), 0);

    plan.version = 99;
    let (_shim, socket) = Shim::spawn("newer");
    assert_eq!(
        failure_of(Client::new(socket).create(&plan)).kind(),
        failed::Kind::Invalid
    );
}

#[test]
fn requests_out_of_turn_are_refused() {
    let c = Host::shell("sleep 1000").start();
    assert_eq!(failure_of(c.client.start()).kind(), failed::Kind::State);
    assert_eq!(
        failure_of(c.client.create(&c.host.plan)).kind(),
        failed::Kind::State
    );
    assert_eq!(
        failure_of(c.client.signal(99, false)).kind(),
        failed::Kind::Invalid
    );
    let other = c.connect();
    other.send(request::Kind::Wait(Default::default()), &[]);
    other.send(request::Kind::Start(Start {}), &[]);
    assert_eq!(failure_of(other.receive().0).kind(), failed::Kind::State);
    assert!(matches!(other.signal(9, true), reply::Kind::Done(_)));
    assert_eq!(crate::client::exit_of(other.receive().0).signal, 9);
}

#[test]
fn the_log_follows_rotation() {
    let c = Host::shell("i=0; while true; do i=$((i+1)); echo $i; sleep 0.01; done").start();
    let log = c.host.dir.path().join("log/c/0.log");
    eventually(|| std::fs::metadata(&log).is_ok_and(|m| m.len() > 0));
    std::fs::rename(&log, log.with_extension("old")).unwrap();
    let (done, _) = c.client.call(request::Kind::ReopenLog(ReopenLog {}), &[]);
    assert!(matches!(done, reply::Kind::Done(_)));
    eventually(|| std::fs::metadata(&log).is_ok_and(|m| m.len() > 0));
    c.client.signal(9, false);
    c.wait();
    let old = std::fs::read_to_string(log.with_extension("old")).unwrap();
    let new = std::fs::read_to_string(&log).unwrap();
    for (index, line) in old.lines().chain(new.lines()).enumerate() {
        assert!(
            line.ends_with(&format!("stdout F {}", index + 1)),
            "line {index}: {line}"
        );
    }
}

#[test]
fn a_signal_is_handled_by_the_program() {
    let c = Host::shell("trap 'echo bye; exit 9' TERM; echo ready; while true; do sleep 0.05; done").start();
    eventually(|| !c.host.log().is_empty());
    assert!(matches!(c.client.signal(15, false), reply::Kind::Done(_)));
    assert_eq!(c.wait().code, 9);
    assert_eq!(c.host.log()[1], line("stdout", "bye"));
}

#[test]
fn nothing_of_the_shims_own_is_inherited() {
    let text = |args: &[&str]| -> Vec<_> {
        let c = Host::new(args).start();
        c.wait();
        c.host.log().into_iter().map(|(_, _, text)| text).collect()
    };
    let status = text(&["cat", "/proc/self/status"]);
    for name in ["SigBlk:", "SigIgn:", "SigPnd:"] {
        assert!(
            status.contains(&format!("{name}\t0000000000000000")),
            "{status:?}"
        );
    }
    // The last one is the folder that is being read.
    assert_eq!(text(&["ls", "/proc/self/fd"]), ["0", "1", "2", "3"]);
}

#[test]
fn streams_can_be_reopened_by_a_plain_user() {
    let mut host = Host::shell("echo out >/dev/stdout; echo err >/dev/stderr");
    let process = host.plan.process.as_mut().unwrap();
    (process.uid, process.gid) = (1000, 1000);
    (process.effective, process.permitted) = (0, 0);
    let c = host.start();
    assert_eq!(c.wait().code, 0);
    assert_eq!(c.host.log().len(), 2);
}
