//! The daemon's process: its start, its end, and its death.

use std::fs::{self, File};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use criquet_proto::cri;
use rustix::process::{Pid as ProcessId, Signal, kill_process};

use super::Node;
use crate::{PATIENCE_S, eventually, tool};

/// The daemon answers within this after its start, in seconds.
const START_S: u64 = PATIENCE_S;
/// The daemon ends within this after SIGTERM, in seconds.
const STOP_S: u64 = PATIENCE_S;
/// What the daemon logs when nothing of an earlier one is left to be taken away.
const RECOVERED: &str = "what an earlier daemon left is taken away";

impl Node {
    /// Starts the daemon and waits until it answers.
    pub fn up(&mut self) {
        self.spawn();
        let (daemon, client) = (&mut self.daemon, &self.client);
        eventually("the daemon answers", START_S, || {
            if let Some(status) = daemon.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                let log = fs::read_to_string(self.place.folder.join("daemon.log")).unwrap_or_default();
                panic!("the daemon ended at once with {status}:\n{log}");
            }
            client.version(cri::VersionRequest::default()).ok()
        });
    }

    /// Waits until the daemon has taken away what an earlier one left half made: it serves meanwhile, and shows it.
    #[track_caller]
    pub fn wait_recovered(&self) {
        eventually("the daemon has cleaned up", START_S, || {
            let log = self.log();
            log.get(self.log_start..)?.contains(RECOVERED).then_some(())
        });
    }

    /// Starts the daemon and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        self.log_start = self.log().len();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.place.folder.join("daemon.log"));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(tool::daemon())
            .args(["serve", "--config"])
            .arg(self.place.folder.join("config.toml"))
            .envs(self.settings.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("open the daemon's log"))
            .spawn()
            .expect("start the daemon");
        self.daemon = Some(child);
    }

    /// Kills the daemon as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            child.kill().expect("kill the daemon");
            child.wait().expect("wait for the daemon");
        }
    }

    /// Asks the daemon to end, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(ProcessId::from_raw)
            .expect("a running daemon");
        kill_process(pid, Signal::TERM).expect("signal the daemon");
        self.wait_end("SIGTERM was sent", STOP_S)
    }

    /// Sets one variable of the next daemons' environment, or takes it away.
    pub fn set_variable(&mut self, name: &str, value: Option<&str>) {
        self.settings.environment.retain(|(known, _)| known != name);
        self.settings
            .environment
            .extend(value.map(|value| (name.into(), value.into())));
    }

    /// Waits until the daemon has ended by itself.
    pub fn wait_end(&mut self, what: &str, seconds: u64) -> ExitStatus {
        let mut child = self.daemon.take().expect("a running daemon");
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = child.try_wait().expect("wait for the daemon") {
                return status;
            }
            if Instant::now() > end {
                self.daemon = Some(child);
                panic!("{what}: the daemon has not ended within {seconds} s");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `kill -9` and a new start.
    pub fn crash(&mut self) {
        self.kill();
        self.up();
    }
}
