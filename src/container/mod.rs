//! Containers: each is a shim and what the shim made.
pub mod attend;
pub mod cgroup;
pub mod config;
pub mod create;
pub mod exec;
pub mod record;
pub mod scope;
pub mod start;
pub mod stop;
