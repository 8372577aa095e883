//! Memory, statistics and recovery with many pods.

use std::fs;
use std::time::{Duration, Instant};

use criquet_tests::{cri, eventually};

use crate::containerd::ready;
use crate::figures::{Figures, Row, Who};
use crate::target::{IDLE, Running, Target, ms};

const FEW: usize = 20;
const SOME: usize = 50;
const MANY: usize = 100;
/// How often a daemon is killed.
const CRASHES: usize = 3;
/// A daemon that does not answer whole by then does not count as coming back, in seconds.
const RECOVERY_S: u64 = 60;
/// What a daemon gives back after a burst is given back by then.
const SETTLE: Duration = Duration::from_secs(2);

/// One target after the other: pods of several must not be there at once, the kernel's memory is shared.
pub(crate) fn measure(targets: &mut [Target], runs: usize, figures: &mut Figures) {
    for target in targets
        .iter_mut()
        .filter(|target| target.who != Who::CriquetPlugins)
    {
        eprintln!("bench: memory and recovery of {:?}", target.who);
        // What the earlier measurements left in the daemon's heap is not what pods cost.
        target.crash();
        eventually("the daemon answers", RECOVERY_S, || ready(target.cri()));
        let mut pods: Vec<Running> = Vec::new();
        fill(target, &mut pods, FEW);
        std::thread::sleep(SETTLE);
        stats(target, runs, figures);
        let who = target.who;
        let all = Kilobytes::of(target);
        figures.add(Row::ShimPss20, who, all.shims / all.shim_count);
        figures.add(Row::PodPss20, who, all.outside / count(FEW));
        figures.add(Row::DaemonPss20, who, all.daemon / 1024.0);
        fill(target, &mut pods, SOME);
        for _ in 0..CRASHES {
            figures.add(Row::Recovery50, who, recovery(target));
        }
        fill(target, &mut pods, MANY);
        std::thread::sleep(SETTLE);
        let all = Kilobytes::of(target);
        figures.add(Row::ShimPss100, who, all.shims / all.shim_count);
        for pod in pods {
            target.give_up(&pod.pod);
        }
    }
}

fn fill(target: &Target, pods: &mut Vec<Running>, number: usize) {
    while pods.len() < number {
        pods.push(target.launch(false, &IDLE));
    }
}

fn stats(target: &Target, runs: usize, figures: &mut Figures) {
    for _ in 0..runs {
        let start = Instant::now();
        let answer = target
            .cri()
            .list_container_stats(cri::ListContainerStatsRequest::default());
        let took = ms(start);
        assert_eq!(
            answer.expect("ListContainerStats").stats.len(),
            FEW,
            "every container's figures"
        );
        figures.add(Row::Stats, target.who, took);
    }
}

/// Milliseconds from `kill -9` to a ListContainers answer that knows every container as running.
fn recovery(target: &mut Target) -> f64 {
    let start = Instant::now();
    target.crash();
    loop {
        let answer = target
            .cri()
            .list_containers(cri::ListContainersRequest::default());
        let running = cri::ContainerState::ContainerRunning;
        if answer.is_ok_and(|all| all.containers.iter().filter(|c| c.state() == running).count() == SOME) {
            return ms(start);
        }
        assert!(
            start.elapsed().as_secs() < RECOVERY_S,
            "the daemon does not know its containers any more"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Proportional set sizes.
struct Kilobytes {
    daemon: f64,
    /// The shims', together.
    shims: f64,
    shim_count: f64,
    /// All but the daemon's and the workload's: shims and what keeps a pod's namespaces.
    outside: f64,
}

impl Kilobytes {
    fn of(target: &Target) -> Kilobytes {
        let own = i32::try_from(target.pid()).expect("a pid");
        let mut found = Kilobytes {
            daemon: 0.0,
            shims: 0.0,
            shim_count: 0.0,
            outside: 0.0,
        };
        for process in target.place().processes() {
            let size = pss(process.pid);
            if process.pid == own {
                found.daemon = size;
            } else if !process.command.starts_with(IDLE[0]) && !process.command.starts_with("docker-registry")
            {
                found.outside += size;
                if process.command.contains("shim") {
                    found.shims += size;
                    found.shim_count += 1.0;
                }
            }
        }
        assert!(
            found.daemon > 0.0 && found.shim_count > 0.0,
            "a daemon and shims to look at"
        );
        found
    }
}

/// A process's proportional set size in KiB; 0 when it has ended.
fn pss(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
