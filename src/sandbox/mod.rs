//! Pod sandboxes: a set of pinned namespaces and a few files, not a process.
pub mod config;
pub mod files;
pub mod namespaces;
pub mod record;
pub mod run;
pub mod stop;
