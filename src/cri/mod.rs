//! The only code that names CRI types: requests become domain types here, objects become answers, faults become
//! gRPC codes.
pub mod admin_service;
pub mod container_answer;
pub mod container_request;
pub mod event_stream;
mod field;
pub mod image_service;
pub mod metric_answer;
pub mod metric_kind;
mod mount_request;
mod profile_request;
pub mod resource_request;
pub mod runtime_service;
pub mod sandbox_answer;
pub mod sandbox_request;
pub mod session_request;
pub mod stats_answer;
pub mod status;
pub mod status_answer;
