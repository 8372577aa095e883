//! `criquet wipe`: ends all pods and takes the state of a daemon that does not run away. The recovery of a start and
//! the removal of a pod do the work; what is new is that the rest goes, too.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::say;
use crate::config::{Config, Log};
use crate::fault::{Fault, OrFault, Result};
use crate::runtime::Runtime;

/// What an earlier daemon left half made is taken away beside us; what is there after this hangs.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks.
const SETTLE_PAUSE: Duration = Duration::from_millis(20);

/// `criquet wipe`.
pub(super) async fn wipe(config: Config, with_images: bool) -> Result<ExitCode> {
    if !config.root.exists() && !config.state.exists() {
        say("there is nothing to wipe\n");
        return Ok(ExitCode::SUCCESS);
    }
    let log = Log {
        level: "warn".into(),
        ..config.log.clone()
    };
    crate::telemetry::start(&log).map_err(Fault::invalid)?;
    let (root, state, socket) = (config.root.clone(), config.state.clone(), config.socket.clone());
    // Holds the lock of the root to the end, so that no daemon starts meanwhile.
    let runtime = Runtime::open(config).await?;
    let (pods, containers) = (runtime.sandboxes.all().len(), runtime.containers.all().len());
    end_pods(&runtime).await?;
    settle(&objects(&root, &state)).await?;
    runtime
        .network
        .wipe()
        .await
        .or_internal(|| "removing the network".into())?;
    runtime.remove_empty_parent();
    let images = root.join("images");
    let gone = tokio::task::spawn_blocking(move || {
        if with_images {
            remove(&images)?;
        }
        remove_state(&root, &state, &socket)?;
        Ok::<_, Fault>((images.exists(), images))
    });
    let (left, images) = gone.await.or_internal(|| "removing folders".into())??;
    say(&format!(
        "ended and removed: {pods} pods, {containers} containers\n"
    ));
    if left {
        say(&format!("kept: the images in {} (--images)\n", images.display()));
    }
    Ok(ExitCode::SUCCESS)
}

async fn end_pods(runtime: &Arc<Runtime>) -> Result<()> {
    let removals = runtime.sandboxes.all().into_iter().map(|sandbox| {
        let runtime = Arc::clone(runtime);
        async move { runtime.remove_sandbox(&sandbox.id).await }
    });
    let problems: Vec<String> = join_all(removals)
        .await
        .into_iter()
        .filter_map(|removed| removed.err().map(|fault| fault.message))
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Fault::internal(format!(
        "not everything ended, and nothing else was removed; `criquet wipe` again goes on: {}",
        problems.join("; ")
    )))
}

/// The folders with one entry for each pod or container.
fn objects(root: &Path, state: &Path) -> [PathBuf; 3] {
    [
        state.join("sandboxes"),
        state.join("containers"),
        root.join("containers"),
    ]
}

async fn settle(folders: &[PathBuf]) -> Result<()> {
    let end = Instant::now() + SETTLE_DEADLINE;
    loop {
        let left: Vec<String> = folders.iter().flat_map(|folder| entries(folder)).collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Fault::internal(format!(
                "nothing else was removed, since these do not go: {}",
                left.join(", ")
            )));
        }
        sleep(SETTLE_PAUSE).await;
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
        .collect()
}

/// Only what is ours by its name: a folder with something else in it stays.
fn remove_state(root: &Path, state: &Path, socket: &Path) -> Result<()> {
    for folder in objects(root, state) {
        remove_empty(&folder)?;
    }
    remove(socket)?;
    let records = std::fs::read_dir(root).into_iter().flatten();
    for path in records.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        // Beside the store itself those that were put aside as damaged.
        if name == "state.redb" || name.starts_with("state.damaged-") {
            remove(&path)?;
        }
    }
    remove(&root.join("lock"))?;
    for folder in socket.parent().into_iter().chain([state, root]) {
        // Something is in it, or it is gone: as it should be.
        std::fs::remove_dir(folder).ok();
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    unless_missing(removed, path)
}

fn remove_empty(folder: &Path) -> Result<()> {
    unless_missing(std::fs::remove_dir(folder), folder)
}

fn unless_missing(removed: std::io::Result<()>, path: &Path) -> Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).or_internal(|| format!("removing {path:?}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, state) = (dir.path().join("root"), dir.path().join("state"));
        for folder in objects(&root, &state) {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::create_dir(root.join("images")).unwrap();
        for file in [
            "lock",
            "state.redb",
            "state.damaged-1",
            "images/images.redb",
            "strange",
        ] {
            std::fs::write(root.join(file), "").unwrap();
        }
        let socket = state.join("criquet.sock");
        std::fs::write(&socket, "").unwrap();
        remove_state(&root, &state, &socket).unwrap();
        assert!(!state.exists());
        let mut left = entries(&root);
        left.sort();
        let kept = ["images", "strange"].map(|name| root.join(name).display().to_string());
        assert_eq!(left, kept);
        remove_state(&root, &state, &socket).unwrap();
    }

    #[test]
    fn a_folder_of_a_pod_that_is_still_there_is_no_ones_to_remove() {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("state/sandboxes/a");
        std::fs::create_dir_all(&pod).unwrap();
        let state = dir.path().join("state");
        assert!(remove_state(dir.path(), &state, &state.join("s")).is_err());
        assert!(pod.exists());
    }
}
