//! The process that owns one container: its parent, its stdio and log, its exit status.
#![forbid(unsafe_code)]
