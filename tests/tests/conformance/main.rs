//! critest, the CRI's own conformance suite: three times in a row over SPDY, and again over WebSocket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::let_underscore_must_use)]

mod report;
mod skips;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use criquet_tests::{Node, run, workspace};
use report::{Spec, State};
use skips::Skips;

/// Once can be luck.
const ROUNDS: u32 = 3;
/// The whole suite takes three minutes with a healthy daemon on an idle machine; a sick one makes every spec wait.
const LIMIT: Duration = Duration::from_secs(40 * 60);
/// Specs wait more than they work: more at once than there are cores.
const PARALLEL: &str = "4";

/// One suite at a time: both measure time-outs.
static ONE: Mutex<()> = Mutex::new(());

#[test]
fn critest_over_spdy() {
    critest("spdy", &[]);
}

#[test]
fn critest_over_websocket() {
    critest(
        "websocket",
        &["-websocket-exec", "-websocket-attach", "-websocket-portforward"],
    );
}

/// All rounds against one daemon: what one leaves behind is in the way of the next.
fn critest(name: &str, flags: &[&str]) {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let skips = Skips::read(&workspace().join("tests/tests/conformance/skips.txt"));
    let node = Node::start();
    for round in 1..=ROUNDS {
        let segments = shared_memory();
        let report = node.work().join(format!("report-{round}.json"));
        let output = out_folder().join(format!("critest-{name}-{round}.log"));
        execute(&node, flags, &skips, &report, &output);
        for segment in shared_memory().difference(&segments) {
            // Two specs leave a System V segment on the host.
            run("ipcrm", &["-m", segment]);
        }
        assert!(
            report.exists(),
            "critest wrote no report; see {}",
            output.display()
        );
        let _ = fs::copy(&report, out_folder().join(format!("critest-{name}-{round}.json")));
        let problems = judge(&report::read(&report), &skips);
        assert!(
            problems.is_empty(),
            "{}\n(all of it: {})",
            problems.join("\n"),
            output.display()
        );
    }
}

fn execute(node: &Node, flags: &[&str], skips: &Skips, report: &Path, output: &Path) {
    let tools = workspace().join(".work/bin/tools");
    let endpoint = format!("unix://{}", node.socket().display());
    let path = format!(
        "{}:{}",
        tools.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut command = Command::new(tools.join("critest"));
    command
        .arg(format!("-runtime-endpoint={endpoint}"))
        .arg(format!("-image-endpoint={endpoint}"))
        .args(["-config=/dev/null", "-ginkgo.no-color", "-parallel", PARALLEL])
        .arg(format!("-ginkgo.json-report={}", report.display()))
        .args(flags)
        .args(
            skips
                .excluded()
                .map(|name| format!("-ginkgo.skip={}", literal(name))),
        )
        .env("PATH", path)
        .current_dir(node.work())
        .stdin(Stdio::null())
        .stdout(File::create(output).expect("create the output"))
        .stderr(
            File::options()
                .append(true)
                .open(output)
                .expect("open the output"),
        );
    let mut child = command.spawn().expect("start critest");
    let end = Instant::now() + LIMIT;
    while child.try_wait().expect("wait for critest").is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("critest did not end within {LIMIT:?}; see {}", output.display());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What is wrong with a run: failures, skips that nobody gave a reason for, reasons for specs that are no more.
fn judge(specs: &[Spec], skips: &Skips) -> Vec<String> {
    let count = |state: State| specs.iter().filter(|spec| spec.state == state).count();
    // Not println: the counts are wanted of a run that went well, too.
    let _ = writeln!(
        std::io::stderr(),
        "\ncritest: {} passed, {} failed, {} skipped",
        count(State::Passed),
        count(State::Failed),
        count(State::Skipped)
    );
    let mut problems = Vec::new();
    if count(State::Passed) == 0 {
        problems.push("no spec passed".to_string());
    }
    for spec in specs {
        match (&spec.state, skips.reason(&spec.name)) {
            (State::Failed, _) => problems.push(format!("FAILED {}\n    {}", spec.name, spec.message)),
            (State::Skipped, None) => problems.push(format!(
                "SKIPPED without a reason: {} ({})",
                spec.name, spec.message
            )),
            (State::Passed, Some(reason)) => {
                let _ = writeln!(
                    std::io::stderr(),
                    "\ncritest: passed though skips.txt says \"{reason}\": {}",
                    spec.name
                );
            }
            _ => {}
        }
    }
    for name in skips.names() {
        if !specs.iter().any(|spec| spec.name.contains(name)) {
            problems.push(format!("skips.txt names a spec that does not exist: {name}"));
        }
    }
    problems
}

/// A regular expression that means the text itself.
fn literal(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if "\\.+*?()|[]{}^$".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

fn out_folder() -> PathBuf {
    let folder = workspace().join(".work/out");
    fs::create_dir_all(&folder).expect("create the output folder");
    folder
}

/// Segments whose maker is gone and that nobody uses: others on this machine may have some of their own.
fn shared_memory() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let left = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, id, _, _, maker, _, attached, ..] = words[..] else {
            return None;
        };
        (attached == "0" && !Path::new("/proc").join(maker).exists()).then(|| id.to_string())
    };
    table.lines().skip(1).filter_map(left).collect()
}
