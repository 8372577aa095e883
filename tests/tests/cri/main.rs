//! The CRI's calls, as a kubelet and as crictl make them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::let_underscore_must_use)]

mod bad_input;
mod crictl;
mod events;
mod images;
mod lifecycle;
mod logs;
mod status;
mod streaming;
