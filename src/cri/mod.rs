//! The only code that names CRI types.
pub mod container_request;
mod field;
mod mount_request;
mod profile_request;
pub mod resource_request;
pub mod sandbox_request;
pub mod status;
