//! What is attached: one record per pod, written before anything is done, and the result after.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{NetworkConfig, is_name};
use crate::native::Attached;
use crate::{Error, Pod, Result, capability};

/// Changed when an older reader would misread a record.
const FORMAT: u32 = 1;
/// The last byte of a record that was written to its end.
const END: u8 = b'\n';
const RECORD: &str = ".attachment.json";
const RESULT: &str = ".result.json";
/// Records name pods, and the folder is ours.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// An attachment that was begun: all that DEL needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    pub(crate) pod_id: String,
    /// `namespace/name`, for people.
    pub(crate) pod: String,
    pub(crate) netns: PathBuf,
    pub(crate) config: NetworkConfig,
    /// Set: it was done in process.
    pub(crate) native: Option<Attached>,
    /// `CNI_ARGS`
    pub(crate) arguments: String,
    pub(crate) capabilities: Map<String, Value>,
}

impl Record {
    pub(crate) fn new(pod: &Pod, config: NetworkConfig, native: Option<Attached>) -> Result<Self> {
        if !is_name(&pod.id) {
            return Err(Error(format!(
                "pod id {:?} is not made of letters, digits, _, . and -",
                pod.id
            )));
        }
        Ok(Self {
            format: FORMAT,
            pod_id: pod.id.clone(),
            pod: format!("{}/{}", pod.namespace, pod.name),
            netns: pod.netns.clone(),
            config,
            native,
            arguments: capability::arguments(pod)?,
            capabilities: capability::of(pod),
        })
    }
}

/// The folder of records.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(dir)
            .map_err(|error| Error(format!("make folder {}: {error}", dir.display())))?;
        Ok(Self { dir: dir.into() })
    }

    fn path(&self, pod_id: &str, suffix: &str) -> PathBuf {
        self.dir.join(format!("{pod_id}{suffix}"))
    }

    /// Writes the record durably. There is none of this pod yet.
    ///
    /// Straight to its name, where one journal commit does: what a crash leaves of a record that was not
    /// finished stands for an attachment that was not begun.
    pub(crate) fn begin(&self, record: &Record) -> Result<()> {
        let path = self.path(&record.pod_id, RECORD);
        let failed =
            |error: &dyn std::fmt::Display| Error(format!("record network {}: {error}", path.display()));
        let mut text = serde_json::to_vec(record).map_err(|error| failed(&error))?;
        text.push(END);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(FILE_MODE);
        let written = options
            .open(&path)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
        written.map_err(|error| failed(&error))?;
        criquet_sys::fs::fsync_dir(&self.dir).map_err(|error| failed(&error))
    }

    /// Keeps the result of ADD. `durable`: across a power cut; what was done in process is all gone
    /// after one but the leases, which are found by the pod's id.
    pub(crate) fn finish(&self, pod_id: &str, result: &Value, durable: bool) -> Result<()> {
        let path = self.path(pod_id, RESULT);
        let text = result.to_string();
        if durable {
            return criquet_sys::fs::write_atomic(&path, text.as_bytes(), FILE_MODE)
                .map_err(|error| Error(format!("keep the network result of pod {pod_id}: {error}")));
        }
        let new = self.path(pod_id, ".result.new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| Error(format!("keep the network result {}: {error}", path.display())))
    }

    pub(crate) fn get(&self, pod_id: &str) -> Result<Option<Record>> {
        if !is_name(pod_id) {
            return Ok(None);
        }
        let path = self.path(pod_id, RECORD);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error(format!("read {}: {error}", path.display()))),
        };
        if text.last() != Some(&END) {
            tracing::warn!(path = %path.display(), "a record was not finished and is dropped");
            self.remove(pod_id)?;
            return Ok(None);
        }
        let record: Record = serde_json::from_slice(&text)
            .map_err(|error| Error(format!("read {}: {error}", path.display())))?;
        if record.format != FORMAT {
            return Err(Error(format!(
                "read {}: format {} is not known",
                path.display(),
                record.format
            )));
        }
        Ok(Some(record))
    }

    /// The result, if ADD came that far.
    pub(crate) fn result(&self, pod_id: &str) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.path(pod_id, RESULT)).ok()?).ok()
    }

    /// Forgets a pod. The record goes last: with it goes the duty to detach.
    pub(crate) fn remove(&self, pod_id: &str) -> Result<()> {
        for suffix in [RESULT, RECORD] {
            let path = self.path(pod_id, suffix);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error(format!("remove {}: {error}", path.display())));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The ids of all pods that have a record.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let failed = |error| Error(format!("read folder {}: {error}", self.dir.display()));
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(RECORD)) {
                ids.push(id.to_owned());
            }
        }
        ids.sort();
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let config = serde_json::json!({ "source": "", "name": "n", "version": "1.0.0", "plugins": [] });
        let pod = Pod {
            id: "one".into(),
            ..Pod::default()
        };
        Record::new(&pod, serde_json::from_value(config).unwrap(), None).unwrap()
    }

    #[test]
    fn a_record_that_was_not_finished_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.begin(&record()).unwrap();
        records.begin(&record()).unwrap_err();
        assert_eq!(records.get("one").unwrap().unwrap().pod_id, "one");
        assert_eq!(records.ids().unwrap(), ["one"]);
        let path = dir.path().join("one.attachment.json");
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() - 1]).unwrap();
        assert!(records.get("one").unwrap().is_none());
        assert!(records.ids().unwrap().is_empty());
    }

    #[test]
    fn a_record_of_the_future_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        fs::write(dir.path().join("one.attachment.json"), "{\"format\":9}\n").unwrap();
        assert!(records.get("one").is_err());
        assert_eq!(records.ids().unwrap().len(), 1);
        assert!(records.get("../one").unwrap().is_none());
    }
}
