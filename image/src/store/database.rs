//! The durable copy of the records: one file, one transaction for each change.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redb::{DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use serde::de::DeserializeOwned;

use super::record::{ImageRecord, LayerRecord, decode, encode};
use crate::digest::Digest;
use crate::limits::DATABASE_CACHE;
use crate::{Error, ErrorKind, Result};

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const IMAGES: Table = TableDefinition::new("images");
/// Images that are removed, and whose layers containers still use.
const REMOVED: Table = TableDefinition::new("removed");
const LAYERS: Table = TableDefinition::new("layers");

/// How long an earlier owner that is ending may still hold the file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Database(redb::Database);

/// All that is recorded.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) images: Vec<ImageRecord>,
    pub(super) removed: Vec<ImageRecord>,
    pub(super) layers: Vec<LayerRecord>,
}

/// One step of a transaction.
#[derive(Debug)]
pub(super) enum Change<'a> {
    Image(&'a ImageRecord),
    NoImage(&'a Digest),
    Removed(&'a ImageRecord),
    NoRemoved(&'a Digest),
    Layer(&'a LayerRecord),
    NoLayer(&'a Digest),
}

impl Database {
    /// Opens the database, and tells whether it is new. A file that is none is put aside.
    pub(super) fn open(path: &Path) -> Result<(Self, bool)> {
        let database = match create(path) {
            Ok(database) => database,
            Err(error) if is_corrupt(&error) => {
                let aside = put_aside(path)?;
                tracing::error!(path = %path.display(), aside = %aside.display(), %error, "image database is damaged");
                create(path).map_err(|e| failed("opening the database", e))?
            }
            Err(error) => {
                let what = format!("opening the database {}", path.display());
                return Err(Error::caused(ErrorKind::Internal, what, error));
            }
        };
        let is_new = !has_tables(&database)?;
        Ok((Self(database), is_new))
    }

    pub(super) fn load(&self) -> Result<Records> {
        let read = self
            .0
            .begin_read()
            .map_err(|e| failed("reading the database", e))?;
        Ok(Records {
            images: table(&read, IMAGES)?,
            removed: table(&read, REMOVED)?,
            layers: table(&read, LAYERS)?,
        })
    }

    /// All of `changes` or none; durable when it returns.
    pub(super) fn commit(&self, changes: &[Change<'_>]) -> Result<()> {
        let write = self
            .0
            .begin_write()
            .map_err(|e| failed("changing the database", e))?;
        for change in changes {
            match change {
                Change::Image(record) => put(&write, IMAGES, &record.id, &encode(record)?)?,
                Change::NoImage(id) => delete(&write, IMAGES, id)?,
                Change::Removed(record) => put(&write, REMOVED, &record.id, &encode(record)?)?,
                Change::NoRemoved(id) => delete(&write, REMOVED, id)?,
                Change::Layer(record) => put(&write, LAYERS, &record.diff_id, &encode(record)?)?,
                Change::NoLayer(id) => delete(&write, LAYERS, id)?,
            }
        }
        for name in [IMAGES, REMOVED, LAYERS] {
            write.open_table(name).map_err(|e| failed("opening a table", e))?;
        }
        write.commit().map_err(|e| failed("changing the database", e))
    }
}

fn create(path: &Path) -> std::result::Result<redb::Database, DatabaseError> {
    let start = Instant::now();
    loop {
        let mut builder = redb::Builder::new();
        builder.set_cache_size(DATABASE_CACHE);
        // Without it a damaged file panics later instead of failing now.
        builder.set_check_integrity_on_open(true);
        match builder.create(path) {
            Err(DatabaseError::DatabaseAlreadyOpen) if start.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

fn is_corrupt(error: &DatabaseError) -> bool {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        DatabaseError::Storage(StorageError::Corrupted(_)) | DatabaseError::UpgradeRequired(_) => true,
        DatabaseError::Storage(StorageError::Io(error)) => {
            matches!(error.kind(), InvalidData | UnexpectedEof)
        }
        _ => false,
    }
}

fn put_aside(path: &Path) -> Result<PathBuf> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    let aside = path.with_extension(format!("redb.damaged-{now}"));
    std::fs::rename(path, &aside).map_err(|e| failed("putting the damaged database aside", e))?;
    Ok(aside)
}

fn has_tables(database: &redb::Database) -> Result<bool> {
    let read = database
        .begin_read()
        .map_err(|e| failed("reading the database", e))?;
    let mut tables = read
        .list_tables()
        .map_err(|e| failed("reading the database", e))?;
    Ok(tables.next().is_some())
}

/// Records that cannot be read are left out: an image is pulled again, a store that does not open stops a node.
fn table<T: DeserializeOwned>(read: &redb::ReadTransaction, name: Table) -> Result<Vec<T>> {
    let table = match read.open_table(name) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        other => other.map_err(|e| failed("opening a table", e))?,
    };
    let mut records = Vec::new();
    for row in table.iter().map_err(|e| failed("reading a table", e))? {
        let (key, value) = row.map_err(|e| failed("reading a table", e))?;
        match decode(key.value(), value.value()) {
            Ok(record) => records.push(record),
            Err(error) => tracing::error!(%error, "a record of the image database is left out"),
        }
    }
    Ok(records)
}

fn put(write: &redb::WriteTransaction, name: Table, key: &Digest, value: &[u8]) -> Result<()> {
    let mut table = write.open_table(name).map_err(|e| failed("opening a table", e))?;
    table
        .insert(key.as_str(), value)
        .map_err(|e| failed("writing a record", e))?;
    Ok(())
}

fn delete(write: &redb::WriteTransaction, name: Table, key: &Digest) -> Result<()> {
    let mut table = write.open_table(name).map_err(|e| failed("opening a table", e))?;
    table
        .remove(key.as_str())
        .map_err(|e| failed("deleting a record", e))?;
    Ok(())
}

fn failed(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::caused(ErrorKind::Internal, format_args!("images: {what}"), error)
}
