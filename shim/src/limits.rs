//! Every limit of the shim, with its reason.

use std::time::Duration;

/// One read of a container's output: a pipe's default capacity.
pub const READ_BYTES: usize = 64 * 1024;

/// A longer log line is split into parts (tag P) of this size, as every CRI runtime does (kubelet's reader and
/// log shippers count on it).
pub const LOG_LINE_BYTES: usize = 16 * 1024;

/// The start of a line waits for its end this long before it is logged as a part: programs that write in blocks
/// cut lines in the middle, and the rest follows at once.
pub const LOG_PART_HOLD: Duration = Duration::from_millis(50);

/// Input that waits for the container to read it. Beyond that, attachers' stdin is not read.
pub const STDIN_QUEUE_BYTES: usize = 64 * 1024;

/// Output that waits for an attacher after the container has ended: what a pipe of the largest unprivileged size
/// may still have held, and one read.
pub const SINK_QUEUE_BYTES: usize = 1024 * 1024 + READ_BYTES;

/// An attacher that takes nothing for so long is dropped; until then it holds the container's output back.
pub const SINK_STALL: Duration = Duration::from_secs(10);

/// Connections at once. The daemon uses one, and one more for each exec, attach and wait.
pub const CONNECTIONS_MAX: usize = 4096;

/// Connections that wait to be accepted.
pub const LISTEN_BACKLOG: i32 = 64;

/// Without descriptors for another connection, the next try comes after so long.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Replies that wait for a peer that does not read. A peer that is so far behind is cut off.
pub const REPLIES_QUEUED_MAX: usize = 32;

/// Killed processes are given so long to go: they may sit in an uninterruptible call.
pub const KILL_WAIT: Duration = Duration::from_secs(2);

/// Between two looks at a cgroup that should become empty.
pub const KILL_POLL: Duration = Duration::from_millis(1);

/// Once no process is left, the output's end is at hand; who holds a pipe longer is outside of the container.
pub const DRAIN_WAIT: Duration = Duration::from_secs(2);

/// A cgroup whose last process is just gone can be busy for a moment.
pub const CGROUP_REMOVE_WAIT: Duration = Duration::from_secs(1);

/// Between two tries to remove a cgroup.
pub const CGROUP_REMOVE_POLL: Duration = Duration::from_millis(1);

/// After the container's end, attachers are given so long in all to take the rest of its output.
pub const FAREWELL_WAIT: Duration = Duration::from_secs(30);

/// Buffers are given back after so long without output.
pub const IDLE_TRIM: Duration = Duration::from_secs(1);

/// Levels of child cgroups that a container may have made and that are removed with it.
pub const CGROUP_DEPTH_MAX: u32 = 32;

/// A file of cgroupfs is read up to this size.
pub const CGROUP_FILE_BYTES: u64 = 1024 * 1024;
