//! A container request and an image become a plan: everything that the shim needs, resolved.
pub mod capabilities;
pub mod signal;
