//! systemd as the one who makes cgroups: every container is a transient scope below its pod's slice, so that
//! `systemctl`, a reload of the manager and the kubelet see what is there. org.freedesktop.systemd1(5).

mod bus;
mod message;
pub mod slice;

use std::path::Path;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::fault::{Fault, Kind, Result};
use bus::Bus;
use message::Body;
pub use message::{Property, Value};

/// systemd's manager does one thing at a time: under load a job waits, but not for ever. runc waits as long.
const JOB_DEADLINE: Duration = Duration::from_secs(30);
/// Connections at once; a bus has a limit for each user (256), and the manager does one thing at a time anyway.
const CALLS_MAX: usize = 16;
/// There while systemd is the host's init, sd_booted(3).
const BOOTED: &str = "/run/systemd/system";
/// "infinity" in every property that has a limit.
pub const INFINITY: u64 = u64::MAX;

static CALLS: Semaphore = Semaphore::const_new(CALLS_MAX);

/// Whether systemd is the host's init.
#[must_use]
pub fn is_running() -> bool {
    Path::new(BOOTED).is_dir()
}

/// Whether systemd can be asked.
///
/// # Errors
/// `Unavailable`: neither the system bus nor the manager's own socket answers.
pub async fn check() -> Result<()> {
    in_time("asking systemd", async { Bus::connect().await.map(drop) }).await
}

/// Starts the transient unit `unit` and waits until its cgroup is there.
///
/// # Errors
/// What systemd said, or `DeadlineExceeded`.
pub async fn start(unit: &str, properties: &[Property]) -> Result<()> {
    let work = async {
        let mut bus = Bus::connect().await?;
        bus.subscribe().await?;
        let body = Body::default()
            .text(unit)
            .text("replace")
            .properties(properties)
            .no_units();
        let job = bus
            .manager("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
            .await?;
        bus.job(&job).await
    };
    in_time(&format!("starting {unit}"), work).await
}

/// Kills what is in a unit and stops it. Not there: done.
///
/// # Errors
/// What systemd said, or `DeadlineExceeded`.
pub async fn stop(unit: &str) -> Result<()> {
    let work = async {
        let mut bus = Bus::connect().await?;
        bus.subscribe().await?;
        let kill = Body::default()
            .text(unit)
            .text("all")
            .u32(criquet_sys::signal::SIGKILL.unsigned_abs());
        // Mostly there is nothing to kill, which is an error to systemd.
        if let Err(fault) = bus.manager("KillUnit", "ssi", kill).await {
            tracing::trace!(unit, %fault, "nothing was killed");
        }
        let body = Body::default().text(unit).text("replace");
        match bus.manager("StopUnit", "ss", body).await {
            Ok(job) => bus.job(&job).await,
            Err(fault) if fault.kind == Kind::NotFound => Ok(()),
            Err(fault) => Err(fault),
        }
    };
    in_time(&format!("stopping {unit}"), work).await
}

/// Changes properties of a unit that runs, until the next boot.
///
/// # Errors
/// What systemd said, or `DeadlineExceeded`.
pub async fn set(unit: &str, properties: &[Property]) -> Result<()> {
    let work = async {
        let mut bus = Bus::connect().await?;
        let body = Body::default().text(unit).flag(true).properties(properties);
        bus.manager("SetUnitProperties", "sba(sv)", body).await.map(drop)
    };
    in_time(&format!("setting properties of {unit}"), work).await
}

async fn in_time(doing: &str, work: impl Future<Output = Result<()>>) -> Result<()> {
    let whole = async {
        // The semaphore is never closed.
        let _turn = CALLS.acquire().await;
        work.await
    };
    match tokio::time::timeout(JOB_DEADLINE, whole).await {
        Ok(done) => done.map_err(|fault| fault.while_doing(doing)),
        Err(_) => Err(Fault::deadline_exceeded(format!(
            "{doing}: systemd did not do it within {} s",
            JOB_DEADLINE.as_secs()
        ))),
    }
}
