//! A container as it is kept: its record on disk and its object in memory.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use criquet_image::Lease;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::config::{ContainerConfig, Resources};
use crate::fault::{Fault, Result};
use crate::sandbox::record::Sandbox;
use crate::stats::layer::Counted;
use crate::stats::rate::Rate;
use crate::supervise::link::Link;

/// What an exit status without one is: the shim was lost, or the host restarted.
pub const EXIT_CODE_UNKNOWN: i32 = 255;

/// How a container ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// 0 to 255.
    pub code: i32,
    /// Nanoseconds since 1970; 0: it never ran.
    pub started_at_ns: i64,
    /// Nanoseconds since 1970.
    pub finished_at_ns: i64,
    /// The kernel's OOM killer ended it.
    pub oom_killed: bool,
    /// For people; empty for a plain exit.
    pub message: String,
}

impl From<criquet_proto::shim::Exit> for Ended {
    fn from(exit: criquet_proto::shim::Exit) -> Self {
        Self {
            code: exit.code,
            started_at_ns: exit.started_at_ns,
            finished_at_ns: exit.finished_at_ns,
            oom_killed: exit.oom_killed,
            message: exit.message,
        }
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Set up; its program waits to be released.
    Created,
    /// Runs.
    Running {
        /// Nanoseconds since 1970.
        since_ns: i64,
        /// Its init, as the host sees it; 0 while its shim does not answer.
        pid: i32,
    },
    /// Has ended.
    Exited(Ended),
}

/// What the record says of a container's life; the shim and its exit record say the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Being made. After a crash it is taken away.
    Creating,
    /// Made.
    Created,
    /// Has ended, and that is known.
    Exited(Ended),
    /// Being taken away. After a crash that is finished.
    Removing,
}

/// The identity that its first process got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// The durable record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The pod.
    pub sandbox: String,
    /// As requested; `resources` as last updated.
    pub config: ContainerConfig,
    /// The image's id.
    pub image_id: String,
    /// Ids of images mounted as volumes.
    pub volume_images: Vec<String>,
    /// Nanoseconds since 1970.
    pub created_at_ns: i64,
    /// Where it is in its life.
    pub phase: Phase,
    /// See [`User`].
    pub user: User,
    /// The signal that asks it to end.
    pub stop_signal: i32,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// The pod.
    pub sandbox: Arc<Sandbox>,
    /// Volatile files: the shim's socket, the exit record, the plan.
    pub dir: PathBuf,
    /// Durable files: the writable layer.
    pub root: PathBuf,
    record: Mutex<Record>,
    /// What is told of it; changes wake those who wait for an end.
    state: watch::Sender<State>,
    /// Somebody has seen its end, and records it.
    end_claimed: AtomicBool,
    /// One operation at a time; readers, exec and stop do not take it.
    pub turn: tokio::sync::Mutex<()>,
    /// The connection over which it was made, until it is started.
    first: Mutex<Option<Link>>,
    /// Keep the layers that it is mounted from.
    leases: Mutex<Vec<Lease>>,
    /// What its writable layer holds.
    pub layer: Counted,
    /// Its processor time at the last look, to tell a rate.
    pub rate: Rate,
}

impl Container {
    /// The object of a record.
    #[must_use]
    pub fn new(
        id: String,
        record: Record,
        sandbox: Arc<Sandbox>,
        dir: PathBuf,
        root: PathBuf,
        state: State,
    ) -> Self {
        Self {
            id,
            sandbox,
            dir,
            root,
            record: Mutex::new(record),
            state: watch::Sender::new(state),
            end_claimed: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
            first: Mutex::default(),
            leases: Mutex::default(),
            layer: Counted::default(),
            rate: Rate::default(),
        }
    }

    /// A copy of the record as it is now.
    #[must_use]
    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    /// Looks at the record without copying it.
    pub fn with_record<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the record in memory and returns it, to be written.
    pub fn change(&self, change: impl FnOnce(&mut Record)) -> Record {
        let mut record = self.lock();
        change(&mut record);
        record.clone()
    }

    /// What is told of it.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Takes the next state. An end is for good: news that come later change nothing.
    pub fn enter(&self, next: State) {
        self.enter_telling(next, || {});
    }

    /// [`Container::enter`], and tells of it before those who wait for the state go on: what they do next is told
    /// later than it. Who reads the state meanwhile gets the new one. `tell` must not wait.
    pub fn enter_telling(&self, next: State, tell: impl FnOnce()) {
        self.state.send_if_modified(|state| {
            let lives = !matches!(state, State::Exited(_));
            if lives {
                *state = next;
            }
            tell();
            lives
        });
    }

    /// Whether the caller is the first to see its end: that one records it.
    #[must_use]
    pub fn claim_end(&self) -> bool {
        !self.end_claimed.swap(true, Ordering::AcqRel)
    }

    /// When it was started, as far as is known: 0 when it never was.
    #[must_use]
    pub fn started_at_ns(&self) -> i64 {
        match &*self.state.borrow() {
            State::Created => 0,
            State::Running { since_ns, .. } => *since_ns,
            State::Exited(ended) => ended.started_at_ns,
        }
    }

    /// Its init, as the host sees it, while it runs and its shim answers.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        match *self.state.borrow() {
            State::Running { pid, .. } => (pid > 0).then_some(pid),
            State::Created | State::Exited(_) => None,
        }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), State::Running { .. })
    }

    /// An error that names the state unless it runs.
    ///
    /// # Errors
    /// `FailedPrecondition`: it does not run.
    pub fn require_running(&self, doing: &str) -> Result<()> {
        let state = match *self.state.borrow() {
            State::Running { .. } => return Ok(()),
            State::Created => "created, not started",
            State::Exited(_) => "exited",
        };
        Err(Fault::failed_precondition(format!(
            "cannot {doing} container {:?}: it is {state}",
            crate::id::short(&self.id)
        )))
    }

    /// Takes the connection over which it was made, if it was not started yet.
    pub fn take_first(&self) -> Option<Link> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps the connection over which it can be started.
    pub fn keep_first(&self, link: Link) {
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
    }

    /// Keeps the layers that it is mounted from on disk.
    pub fn keep_leases(&self, leases: Vec<Lease>) {
        *self.leases.lock().unwrap_or_else(PoisonError::into_inner) = leases;
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        // The sender lives in `self`: waiting cannot fail.
        self.state
            .subscribe()
            .wait_for(|state| matches!(state, State::Exited(_)))
            .await
            .ok();
    }

    /// Resources as last set.
    #[must_use]
    pub fn resources(&self) -> Resources {
        self.lock().config.resources.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
