//! How long single calls take.

use crate::figures::{Figures, Row};
use crate::target::{IDLE, Target, container_config};

/// Pods up and down on their own network and on the host's, and execs, in turns.
pub(crate) fn measure(targets: &[Target], runs: usize, figures: &mut Figures) {
    for run in 0..runs {
        for target in targets {
            own_network(target, figures);
            host_network(target, figures);
        }
        if (run + 1) % 5 == 0 {
            eprintln!("bench: pods, {} of {runs}", run + 1);
        }
    }
}

fn own_network(target: &Target, figures: &mut Figures) {
    let who = target.who;
    let (running, [sandbox, create, start]) =
        target.launch_timed(&target.pod_config(false), container_config(false, &IDLE));
    figures.add(Row::Up, who, sandbox + create + start);
    figures.add(Row::UpSandbox, who, sandbox);
    figures.add(Row::UpCreate, who, create);
    figures.add(Row::UpStart, who, start);
    figures.add(Row::ExecSync, who, target.exec_true(&running));
    let [stop, remove] = target.remove(&running.pod);
    figures.add(Row::Down, who, stop + remove);
    figures.add(Row::DownStop, who, stop);
    figures.add(Row::DownRemove, who, remove);
}

fn host_network(target: &Target, figures: &mut Figures) {
    let (running, steps) = target.launch_timed(&target.pod_config(true), container_config(true, &IDLE));
    figures.add(Row::UpHostNetwork, target.who, steps.iter().sum());
    target.remove(&running.pod);
}
