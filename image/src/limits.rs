//! Every bound on what an image may make this crate hold, write or wait for.

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
