//! Every bound on what a peer may send or an image may hold, with its reason.

/// `/etc/passwd` or `/etc/group` of an image: larger ones exhaust memory (CVE-2026-47262, CVE-2025-4437).
pub const IDENTITY_FILE_BYTES_MAX: u64 = 10 << 20;
/// Supplementary groups of a process: the kernel's NGROUPS_MAX, setgroups(2).
pub const GROUPS_MAX: usize = 65_536;
/// Command line plus environment of a process. execve(2) takes a quarter of the stack limit (2 MiB at the
/// usual 8 MiB), and never more than 6 MiB.
pub const ARGS_AND_ENV_BYTES_MAX: usize = 6 << 20;
/// Mounts of one container, as requested; the kernel's own bound is fs.mount-max (100 000) for all.
pub const MOUNTS_MAX: usize = 4096;
/// Devices of one container, after folders are expanded.
pub const DEVICES_MAX: usize = 4096;
/// How deep a device folder is walked.
pub const DEVICE_FOLDER_DEPTH_MAX: usize = 8;
/// Labels and annotations of one object, keys and values together (the API server's bound on annotations
/// is 256 KiB; labels come on top).
pub const METADATA_BYTES_MAX: usize = 1 << 20;
/// A name or uid in the metadata: Kubernetes names have 253 bytes at most; generous for other clients.
pub const NAME_BYTES_MAX: usize = 1024;
/// A path: PATH_MAX of the kernel.
pub const PATH_BYTES_MAX: usize = 4096;
/// A host name: HOST_NAME_MAX, sethostname(2).
pub const HOSTNAME_BYTES_MAX: usize = 64;
/// Any other text field of a request.
pub const TEXT_BYTES_MAX: usize = 64 << 10;
/// DNS servers, searches and options, each: resolv.conf(5) uses at most 3 servers and (glibc ≥ 2.26) any
/// number of searches, Kubernetes allows 32.
pub const DNS_ENTRIES_MAX: usize = 256;
/// Sysctls of one pod.
pub const SYSCTLS_MAX: usize = 1024;
/// Port mappings of one pod: one per port and protocol is the most that makes sense.
pub const PORTS_MAX: usize = 65_536;
/// A seccomp profile file; Docker's default is 20 KiB.
pub const SECCOMP_PROFILE_BYTES_MAX: u64 = 4 << 20;
/// Instructions of a classic BPF filter: BPF_MAXINSNS of the kernel.
pub const SECCOMP_INSTRUCTIONS_MAX: usize = 4096;
/// Compiled seccomp filters kept.
pub const SECCOMP_CACHE_ENTRIES_MAX: usize = 256;
/// Image identities (parsed passwd and group) kept.
pub const IDENTITY_CACHE_ENTRIES_MAX: usize = 256;
/// Links followed when a path is looked up in an image's layers: the kernel's MAXSYMLINKS, path_resolution(7).
pub const SYMLINKS_MAX: usize = 40;
