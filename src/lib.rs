//! criquet, the daemon. The modules from the outside in: each may use those below it.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
mod grpc;
mod notify;
pub mod serve;

pub mod cri;
pub mod session;

pub mod recovery;
pub mod runtime;

pub mod container;
pub mod sandbox;

pub mod plan;
pub mod stats;
pub mod supervise;
pub mod systemd;

pub mod apparmor;
pub mod event;
pub mod fault;
pub mod fault_point;
pub mod id;
pub mod joined;
pub mod limits;
pub mod store;
pub mod sysctl;
pub mod telemetry;
