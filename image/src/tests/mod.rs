//! The crate as a whole: archives, a registry, a store that is opened again.

mod archive;
mod distribution;
pub(crate) mod fixture;
mod pull;
mod server;
