//! Every bound on what an image may make this crate hold, write or wait for.

use std::time::Duration;

/// Entries of one tar archive. The largest layers known have a few million.
pub(crate) const TAR_ENTRIES_MAX: u64 = 10_000_000;

/// A name or link target in bytes: `PATH_MAX`, beyond which the kernel takes none.
pub(crate) const TAR_NAME_MAX: usize = 4096;

/// One PAX extended header, or one GNU long name, in bytes: what Go's reader allows.
pub(crate) const TAR_HEADER_MAX: u64 = 1024 * 1024;

/// Extended attributes of one file: ext4 and xfs hold a few dozen.
pub(crate) const TAR_XATTRS_MAX: usize = 256;

/// Components of a name in a layer: one descriptor is open for each while the tree is walked.
pub(crate) const LAYER_DEPTH_MAX: usize = 256;

/// Names kept until the end of a layer, in bytes, to set directory times last and to know implied directories.
pub(crate) const LAYER_DIRECTORY_NAMES_MAX: usize = 32 * 1024 * 1024;

/// Looks at a directory of a layer while an image is put together: some seconds.
pub(crate) const IMPLIED_PROBES_MAX: u64 = 1_000_000;

/// Bytes that any layer may unpack to, whatever its packed size (see [`UNPACKED_RATIO_MAX`]).
pub(crate) const UNPACKED_FLOOR: u64 = 1024 * 1024 * 1024;

/// Unpacked bytes per packed byte on top of the floor. Real layers reach 20; a gzip bomb has 1000 and a zstd
/// bomb 10^4 and more.
pub(crate) const UNPACKED_RATIO_MAX: u64 = 200;

/// The zstd window, as a power of two: 128 MiB, what `zstd --ultra -22 --long` needs at most by default.
pub(crate) const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Layers of one image: overlayfs mounts 500 lower layers, of which one may be criquet's own.
pub(crate) const LAYERS_MAX: usize = 490;

/// A config, manifest or index in bytes: registries cap manifests at 4 MiB.
pub(crate) const DOCUMENT_SIZE_MAX: u64 = 4 * 1024 * 1024;

/// Entries of an index: the largest known have a few hundred.
pub(crate) const DESCRIPTORS_MAX: usize = 1000;

/// Chunks of a download that wait for the unpacking thread: a few frames, so that memory stays small.
pub(crate) const DOWNLOAD_CHUNKS_MAX: usize = 16;

/// Characters of an image id that can stand for it, at least.
pub(crate) const ID_PREFIX_MIN: usize = 4;

/// Page cache of the database in bytes; all records are in memory anyway.
pub(crate) const DATABASE_CACHE: usize = 2 * 1024 * 1024;

/// Files of an archive that is loaded.
pub(crate) const ARCHIVE_FILES_MAX: usize = 100_000;

/// Unpacked bytes of a compressed archive that is loaded; it is written out once to be seekable.
pub(crate) const ARCHIVE_UNPACKED_MAX: u64 = 256 * 1024 * 1024 * 1024;

/// Images in one archive.
pub(crate) const ARCHIVE_IMAGES_MAX: usize = 1000;

/// Indexes within indexes. Nobody needs two.
pub(crate) const INDEX_DEPTH_MAX: usize = 4;

/// A TCP connection to a registry. Shorter than containerd's 30 s: a dead mirror delays every pull.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// From a request to the headers of its answer, connecting included.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Finding out whether a loopback registry speaks TLS: it answers at once, or does not.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The body of a manifest or token: small, so a registry that drips it is broken.
pub(crate) const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Idle connections are closed after this: registries do so after a minute or more.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Idle connections to one host: what one pull uses at once.
pub(crate) const IDLE_CONNECTIONS_MAX: usize = 4;

/// Tries of one request at the last host that can answer it.
pub(crate) const ATTEMPTS_MAX: u32 = 3;

/// Connections that one blob may use up, each of which brought some bytes: a flaky network, but no drip feed.
pub(crate) const BLOB_RESUMES_MAX: u32 = 32;

/// The wait before the second try; doubles.
pub(crate) const BACKOFF: Duration = Duration::from_millis(200);

/// The longest Retry-After that is waited for; kubelet has a longer back-off of its own.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// Redirects of one request: registries use one, curl and Go stop far later.
pub(crate) const REDIRECTS_MAX: usize = 5;

/// Bytes of a token server's answer: tokens are a few KiB.
pub(crate) const TOKEN_SIZE_MAX: u64 = 1024 * 1024;

/// Bytes of an error answer that are read for its code.
pub(crate) const ERROR_BODY_MAX: u64 = 16 * 1024;

/// Bytes of a hosts.toml or a certificate file.
pub(crate) const HOSTS_FILE_MAX: u64 = 1024 * 1024;
