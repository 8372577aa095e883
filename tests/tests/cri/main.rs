//! The CRI's calls, as a kubelet and as crictl make them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::let_underscore_must_use)]

mod bad_input;
mod bulk;
mod cgroup;
mod crictl;
mod events;
mod exec_sync;
mod forward;
mod images;
mod lifecycle;
mod logs;
mod metrics;
mod session_attach;
mod session_drop;
mod session_refusal;
mod session_terminal;
mod stats;
mod status;
mod stream_lists;
mod streaming;
mod update;
