//! Pod sandboxes.
pub mod config;
