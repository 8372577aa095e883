//! Containers.
pub mod config;
