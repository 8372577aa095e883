//! What is shown: pods, containers, images, logs, and the state of the host.

use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use criquet_proto::cri;

use super::client::{Client, refused};
use super::say;
use crate::config::Config;
use crate::fault::{Fault, Kind, OrFault, Result};
use crate::id::short;
use crate::plan::host::HostFacts;

/// Between two looks at a log that is followed.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
/// The oldest kernel: mount_setattr, cgroup.kill and the fd-based mount API are all there.
const KERNEL_MIN: (u32, u32) = (5, 14);

/// A table with aligned columns.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|title| title.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            write!(line, "{cell:<width$}  ").ok();
        }
        writeln!(text, "{}", line.trim_end()).ok();
    }
    text
}

/// `criquet ps`.
pub(super) async fn containers(socket: &Path, all: bool) -> Result<ExitCode> {
    let mut client = Client::connect(socket).await?;
    let state = cri::ContainerStateValue {
        state: cri::ContainerState::ContainerRunning.into(),
    };
    let filter = cri::ContainerFilter {
        state: (!all).then_some(state),
        ..cri::ContainerFilter::default()
    };
    let request = cri::ListContainersRequest { filter: Some(filter) };
    let containers = client
        .runtime
        .list_containers(request)
        .await
        .map_err(refused)?
        .into_inner()
        .containers;
    let rows: Vec<Vec<String>> = containers
        .into_iter()
        .map(|container| {
            let state = container
                .state()
                .as_str_name()
                .trim_start_matches("CONTAINER_")
                .to_lowercase();
            vec![
                short(&container.id).to_owned(),
                container.metadata.unwrap_or_default().name,
                state,
                container.image.unwrap_or_default().image,
                short(&container.pod_sandbox_id).to_owned(),
            ]
        })
        .collect();
    say(&table(&["CONTAINER", "NAME", "STATE", "IMAGE", "POD"], &rows));
    Ok(ExitCode::SUCCESS)
}

/// `criquet pod ls`.
pub(super) async fn pods(socket: &Path) -> Result<ExitCode> {
    let mut client = Client::connect(socket).await?;
    let request = cri::ListPodSandboxRequest { filter: None };
    let pods = client
        .runtime
        .list_pod_sandbox(request)
        .await
        .map_err(refused)?
        .into_inner()
        .items;
    let rows: Vec<Vec<String>> = pods
        .into_iter()
        .map(|pod| {
            let state = pod
                .state()
                .as_str_name()
                .trim_start_matches("SANDBOX_")
                .to_lowercase();
            let metadata = pod.metadata.unwrap_or_default();
            vec![
                short(&pod.id).to_owned(),
                metadata.namespace,
                metadata.name,
                state,
            ]
        })
        .collect();
    say(&table(&["POD", "NAMESPACE", "NAME", "STATE"], &rows));
    Ok(ExitCode::SUCCESS)
}

/// `criquet image ls`.
pub(super) async fn images(socket: &Path) -> Result<ExitCode> {
    let mut client = Client::connect(socket).await?;
    let request = cri::ListImagesRequest { filter: None };
    let images = client
        .image
        .list_images(request)
        .await
        .map_err(refused)?
        .into_inner()
        .images;
    let rows: Vec<Vec<String>> = images
        .into_iter()
        .map(|image| {
            let name = image
                .repo_tags
                .into_iter()
                .chain(image.repo_digests)
                .next()
                .unwrap_or_default();
            vec![
                name,
                short(image.id.trim_start_matches("sha256:")).to_owned(),
                image.size.to_string(),
            ]
        })
        .collect();
    say(&table(&["IMAGE", "ID", "BYTES"], &rows));
    Ok(ExitCode::SUCCESS)
}

/// `criquet logs`.
pub(super) async fn logs(socket: &Path, container: &str, follow: bool) -> Result<ExitCode> {
    let mut client = Client::connect(socket).await?;
    let request = cri::ContainerStatusRequest {
        container_id: container.to_owned(),
        verbose: false,
    };
    let status = client
        .runtime
        .container_status(request.clone())
        .await
        .map_err(refused)?
        .into_inner()
        .status;
    let path = status.unwrap_or_default().log_path;
    if path.is_empty() {
        return Err(Fault::failed_precondition(format!(
            "container {container:?} was made without a log"
        )));
    }
    let mut file =
        std::fs::File::open(&path).or_fault(Kind::NotFound, || format!("opening the log {path:?}"))?;
    let mut rest = String::new();
    loop {
        let mut text = String::new();
        // A log is bytes; what is no UTF-8 is shown as a replacement character.
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .or_internal(|| format!("reading the log {path:?}"))?;
        text.push_str(&String::from_utf8_lossy(&bytes));
        print_lines(&mut rest, &text);
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        let status = client
            .runtime
            .container_status(request.clone())
            .await
            .map_err(refused)?
            .into_inner()
            .status;
        if bytes.is_empty() && status.unwrap_or_default().state() == cri::ContainerState::ContainerExited {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(FOLLOW_PAUSE).await;
        // A rotated log starts anew.
        let length = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if file.stream_position().is_ok_and(|at| at > length) {
            file = std::fs::File::open(&path).or_internal(|| format!("opening the log {path:?}"))?;
            file.seek(SeekFrom::Start(0))
                .or_internal(|| format!("reading the log {path:?}"))?;
        }
    }
}

/// Prints the message of each whole line `TIME STREAM TAG MESSAGE`; a partial one (tag P) goes on in the next.
fn print_lines(rest: &mut String, text: &str) {
    rest.push_str(text);
    while let Some(end) = rest.find('\n') {
        let line: String = rest.drain(..=end).collect();
        let mut parts = line.trim_end_matches('\n').splitn(4, ' ').skip(2);
        let (tag, message) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        say(message);
        if !tag.starts_with('P') {
            say("\n");
        }
    }
}

/// `criquet check`.
pub(super) fn check(config: &Config) -> Result<ExitCode> {
    let host = HostFacts::detect(&config.root)?;
    let mut problems = 0;
    let mut line = |good: bool, what: &str| {
        problems += u32::from(!good);
        say(&format!("{} {what}\n", if good { "ok     " } else { "PROBLEM" }));
    };
    line(
        host.kernel >= KERNEL_MIN,
        &format!("kernel {}.{} (5.14 or newer)", host.kernel.0, host.kernel.1),
    );
    line(
        true,
        if host.cgroup.v2 {
            "cgroup v2"
        } else {
            "cgroup v1 or hybrid"
        },
    );
    for controller in ["cpu", "memory", "pids"] {
        line(
            host.cgroup.with(controller).is_some(),
            &format!("cgroup controller {controller}"),
        );
    }
    let admin = host.capabilities & crate::plan::capabilities::bit("SYS_ADMIN") != 0;
    line(admin, "CAP_SYS_ADMIN");
    let filesystems =
        std::fs::read_to_string("/proc/filesystems").or_internal(|| "reading /proc/filesystems".into())?;
    line(
        filesystems.contains("\toverlay"),
        "overlay file system (modprobe overlay)",
    );
    let shim = crate::runtime::shim_path(config)?;
    line(shim.exists(), &format!("shim {}", shim.display()));
    if host.capabilities & crate::plan::capabilities::bit("SYS_RESOURCE") == 0 {
        say("note    without CAP_SYS_RESOURCE: OOM scores are not lowered, hard limits not raised\n");
    }
    say(&format!(
        "note    AppArmor {}, SELinux {}\n",
        on(host.apparmor),
        on(host.selinux)
    ));
    Ok(if problems == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn on(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}
