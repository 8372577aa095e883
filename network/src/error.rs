//! What can go wrong with a pod's network.

/// One sentence that names the network, the plugin and the pod.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;
