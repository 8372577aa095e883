//! The messages that criquet speaks: the Container Runtime Interface ([`cri`]) and the talk between the
//! daemon and a container's shim ([`shim`]).
#![forbid(unsafe_code)]
#![allow(
    missing_debug_implementations,
    clippy::large_enum_variant,
    clippy::doc_lazy_continuation
)]

/// CRI v1 as of Kubernetes 1.37.
#[cfg(feature = "cri")]
#[allow(unreachable_pub, clippy::all, clippy::pedantic)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// What an administrator asks of the daemon beyond the CRI.
#[cfg(feature = "cri")]
#[allow(unreachable_pub, clippy::all, clippy::pedantic)]
pub mod admin {
    tonic::include_proto!("criquet.admin.v1");
}

/// Daemon and shim. See `proto/shim/shim.proto`.
#[allow(unreachable_pub)]
pub mod shim {
    include!(concat!(env!("OUT_DIR"), "/criquet.shim.v1.rs"));

    /// The version that this build speaks. A daemon serves every version up to its own.
    pub const VERSION: u32 = 1;
    /// One message on the socket never exceeds this (a plan travels in a memfd instead).
    pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
    /// A plan or an exec's process in its memfd never exceeds this.
    pub const PLAN_BYTES_MAX: usize = 16 * 1024 * 1024;
    /// File descriptors that travel with one message at most.
    pub const FDS_MAX: usize = 16;
    /// The control socket in a container's state directory.
    pub const SOCKET_NAME: &str = "shim.sock";
    /// The exit record in a container's state directory: one encoded [`Exit`].
    pub const EXIT_NAME: &str = "exit";
    /// The descriptor on which a new shim finds its first connection.
    pub const FIRST_CONNECTION_FD: i32 = 3;
}
