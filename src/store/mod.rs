//! Durable records of sandboxes and containers; the only code that writes them.
//!
//! One redb file, two tables, JSON values. One thread commits: what waits together is committed together, so
//! that a burst of requests pays for one fsync. A write has happened when its call returns.

use std::path::Path;
use std::sync::mpsc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

/// Page cache of the database: records are small and are read once, at start.
const CACHE_BYTES: usize = 1024 * 1024;
/// Writes that one commit takes together at most, so that none waits long.
const BATCH_MAX: usize = 256;

/// The tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Pod sandboxes by id.
    Sandboxes,
    /// Containers by id.
    Containers,
}

impl Table {
    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        match self {
            Self::Sandboxes => TableDefinition::new("sandboxes"),
            Self::Containers => TableDefinition::new("containers"),
        }
    }
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("store: {doing}: {source}")]
pub struct Error {
    doing: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    fn new(doing: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            doing: doing.into(),
            source: source.into(),
        }
    }
}

struct Write {
    table: Table,
    id: String,
    /// `None` removes.
    value: Option<Vec<u8>>,
    done: oneshot::Sender<Result<(), String>>,
}

/// The records.
#[derive(Debug, Clone)]
pub struct Store {
    writes: mpsc::Sender<Write>,
}

/// Everything that was recorded, as read at start: id and value.
pub type Rows<T> = Vec<(String, T)>;

impl Store {
    /// Opens or makes the database at `path`. A damaged one is put aside under another name, with a warning: the
    /// shims' own records and the kernel still say what runs, and a start must not need hands.
    ///
    /// # Errors
    /// The disk refuses: it is full, read-only, or fails. The records are whole, and wait for a disk that works.
    pub fn open(path: &Path) -> Result<(Self, Records), Error> {
        let database = match open_database(path) {
            Ok(database) => database,
            Err(error) if !is_damage(&error) => return Err(opening(path, error)),
            Err(error) => {
                let aside = path.with_extension(format!("damaged-{}", crate::id::now_ns()));
                tracing::warn!(%error, aside = %aside.display(), "the record store is damaged; it is put aside");
                std::fs::rename(path, &aside)
                    .map_err(|error| Error::new(format!("putting {} aside", path.display()), error))?;
                open_database(path).map_err(|error| opening(path, error))?
            }
        };
        let database = std::sync::Arc::new(database);
        let (writes, queue) = mpsc::channel();
        let for_writer = std::sync::Arc::clone(&database);
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || write_loop(&for_writer, &queue))
            .map_err(|error| Error::new("starting the writer", error))?;
        Ok((Self { writes }, Records(database)))
    }

    /// Writes a record; durable when this returns.
    ///
    /// # Errors
    /// The disk or the database refused; nothing changed.
    pub async fn put<T: Serialize>(&self, table: Table, id: &str, value: &T) -> Result<(), Error> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| Error::new(format!("encoding record {id:?}"), error))?;
        self.write(table, id, Some(bytes)).await
    }

    /// Removes a record; one that is not there counts as removed.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn remove(&self, table: Table, id: &str) -> Result<(), Error> {
        self.write(table, id, None).await
    }

    async fn write(&self, table: Table, id: &str, value: Option<Vec<u8>>) -> Result<(), Error> {
        let (done, wait) = oneshot::channel();
        let write = Write {
            table,
            id: id.to_owned(),
            value,
            done,
        };
        let doing = || format!("writing record {id:?}");
        self.writes
            .send(write)
            .map_err(|_| Error::new(doing(), "the writer has ended"))?;
        wait.await
            .map_err(|_| Error::new(doing(), "the writer has ended"))?
            .map_err(|error| Error::new(doing(), error))
    }
}

/// The read side, used at start.
#[derive(Clone)]
pub struct Records(std::sync::Arc<Database>);

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Records")
    }
}

impl Records {
    /// All records of a table. One that cannot be decoded is left out, with a warning that names it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn load<T: DeserializeOwned>(&self, table: Table) -> Result<Rows<T>, Error> {
        let doing = || format!("reading the table {table:?}");
        let read = self.0.begin_read().map_err(|error| Error::new(doing(), error))?;
        let rows = match read.open_table(table.definition()) {
            Ok(rows) => rows,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(Error::new(doing(), error)),
        };
        let mut all = Vec::new();
        for row in rows.iter().map_err(|error| Error::new(doing(), error))? {
            let (id, value) = row.map_err(|error| Error::new(doing(), error))?;
            match serde_json::from_slice(value.value()) {
                Ok(value) => all.push((id.value().to_owned(), value)),
                Err(error) => {
                    tracing::warn!(id = id.value(), %error, "a record cannot be read; it is left out")
                }
            }
        }
        Ok(all)
    }
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
    // A first commit proves that the file can be written, and makes the tables.
    let write = database.begin_write()?;
    for table in [Table::Sandboxes, Table::Containers] {
        write.open_table(table.definition())?;
    }
    write.commit()?;
    Ok(database)
}

fn opening(path: &Path, error: redb::Error) -> Error {
    Error::new(format!("opening {}", path.display()), error)
}

/// Whether the file's content is at fault, and not the disk, or another process that has it open.
fn is_damage(error: &redb::Error) -> bool {
    use std::io::ErrorKind;
    match error {
        redb::Error::Io(error) => matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof),
        redb::Error::DatabaseAlreadyOpen | redb::Error::PreviousIo => false,
        _ => true,
    }
}

fn write_loop(database: &Database, queue: &mpsc::Receiver<Write>) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX {
            let Ok(next) = queue.try_recv() else { break };
            batch.push(next);
        }
        let result = commit(database, &batch).map_err(|error| error.to_string());
        for write in batch {
            // The caller may have gone; the write stands all the same.
            write.done.send(result.clone()).ok();
        }
    }
}

fn commit(database: &Database, batch: &[Write]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    // Two-phase commit: a torn write is found at once, without a scan of the file at the next start.
    transaction.set_quick_repair(true);
    for write in batch {
        let mut table = transaction.open_table(write.table.definition())?;
        match &write.value {
            Some(value) => table.insert(write.id.as_str(), value.as_slice())?,
            None => table.remove(write.id.as_str())?,
        };
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_put_is_there_after_reopening_and_what_was_removed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        {
            let (store, _) = Store::open(&path).unwrap();
            store.put(Table::Sandboxes, "a", &1u32).await.unwrap();
            store.put(Table::Sandboxes, "b", &2u32).await.unwrap();
            store.put(Table::Containers, "a", &3u32).await.unwrap();
            store.remove(Table::Sandboxes, "b").await.unwrap();
            store.remove(Table::Sandboxes, "never").await.unwrap();
        }
        // The writer lets go of the file when its queue is closed.
        let (_, records) = reopen(&path);
        assert_eq!(
            records.load::<u32>(Table::Sandboxes).unwrap(),
            vec![("a".to_owned(), 1)]
        );
        assert_eq!(
            records.load::<u32>(Table::Containers).unwrap(),
            vec![("a".to_owned(), 3)]
        );
    }

    fn reopen(path: &Path) -> (Store, Records) {
        for _ in 0..100 {
            if let Ok(database) = open_database(path) {
                drop(database);
                return Store::open(path).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the database was not let go");
    }

    #[tokio::test]
    async fn a_damaged_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        std::fs::write(&path, b"not a database").unwrap();
        let (store, _records) = Store::open(&path).unwrap();
        store.put(Table::Sandboxes, "a", &1u32).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    /// ENOSPC and the like once made an empty store, and the pods of the full one were ended.
    #[tokio::test]
    async fn a_file_that_the_disk_refuses_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        std::fs::create_dir(&path).unwrap();
        let error = Store::open(&path).unwrap_err().to_string();
        assert!(error.contains("opening"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        for kind in [
            std::io::ErrorKind::StorageFull,
            std::io::ErrorKind::ReadOnlyFilesystem,
        ] {
            assert!(!is_damage(&redb::Error::Io(kind.into())), "{kind}");
        }
    }

    #[tokio::test]
    async fn a_record_of_another_shape_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (store, records) = Store::open(&dir.path().join("s")).unwrap();
        store.put(Table::Containers, "good", &1u32).await.unwrap();
        store.put(Table::Containers, "odd", &"text").await.unwrap();
        assert_eq!(
            records.load::<u32>(Table::Containers).unwrap(),
            vec![("good".to_owned(), 1)]
        );
    }
}
