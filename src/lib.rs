//! criquet, the daemon.
#![forbid(unsafe_code)]
