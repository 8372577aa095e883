//! criquet, the daemon.
#![forbid(unsafe_code)]

pub mod container;
pub mod cri;
pub mod fault;
pub mod limits;
pub mod plan;
pub mod sandbox;
