//! How much goes through: pods of many clients, log lines, images.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Instant;

use criquet_tests::{cri, eventually, image, run};
use tokio::task::JoinSet;

use crate::figures::{Figures, Row, Who};
use crate::image::Large;
use crate::target::{IDLE, Target, container_config, create_request, ms};

const CLIENTS: usize = 8;
/// Pods that each client makes in a round.
const PODS: usize = 4;
/// Rounds of what takes seconds.
const ROUNDS: usize = 3;
/// Writes 100-byte lines as fast as they can be copied: they are made before the first is written.
const WRITER: &str = "yes $(printf '%099d' 7) | head -n 400000 >/dev/shm/lines; \
    cat /dev/shm/lines /dev/shm/lines /dev/shm/lines";
/// What the writer writes, in MB.
const LOG_MB: f64 = 120.0;
/// The writer has ended by then, in seconds.
const LOG_S: u64 = 120;

/// Pods per second when several clients ask at once.
pub(crate) fn pods(targets: &[Target], runs: usize, figures: &mut Figures) {
    for _ in 0..ROUNDS.min(runs) {
        for target in targets {
            let start = Instant::now();
            let ids = target.cri().wait(clients(target));
            let pods = f64::from(u32::try_from(ids.len()).expect("few pods"));
            figures.add(Row::Parallel, target.who, pods / start.elapsed().as_secs_f64());
            for id in ids {
                target.remove(&id);
            }
        }
    }
    eprintln!("bench: many clients, done");
}

async fn clients(target: &Target) -> Vec<String> {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = target.cri().runtime();
        let configs: Vec<_> = (0..PODS).map(|_| target.pod_config(false)).collect();
        clients.spawn(async move {
            let mut ids = Vec::new();
            for config in configs {
                let request = cri::RunPodSandboxRequest {
                    config: Some(config.clone()),
                    ..cri::RunPodSandboxRequest::default()
                };
                let pod = client.run_pod_sandbox(request).await.expect("RunPodSandbox");
                let pod = pod.into_inner().pod_sandbox_id;
                let request = create_request(&pod, &config, container_config(false, &IDLE));
                let container = client.create_container(request).await.expect("CreateContainer");
                let request = cri::StartContainerRequest {
                    container_id: container.into_inner().container_id,
                };
                client.start_container(request).await.expect("StartContainer");
                ids.push(pod);
            }
            ids
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

/// MB of messages per second from a container's pipe to its log, by the log's own time stamps.
pub(crate) fn logs(targets: &[Target], figures: &mut Figures) {
    for _ in 0..ROUNDS {
        for target in targets.iter().filter(|target| target.who != Who::CriquetPlugins) {
            run("sync", &[]);
            let pod = target.pod_config(true);
            let mut config = container_config(true, &["sh", "-c", WRITER]);
            // The lines are in memory.
            config.linux.as_mut().expect("linux").resources = None;
            let (running, _) = target.launch_timed(&pod, config);
            let request = cri::ContainerStatusRequest {
                container_id: running.container.clone(),
                ..cri::ContainerStatusRequest::default()
            };
            eventually("the writer ends", LOG_S, || {
                let status = target
                    .cri()
                    .container_status(request.clone())
                    .expect("ContainerStatus")
                    .status?;
                (status.state() == cri::ContainerState::ContainerExited).then_some(())
            });
            let seconds = log_seconds(&Path::new(&pod.log_directory).join("main.log"));
            figures.add(Row::Logs, target.who, LOG_MB / seconds);
            target.remove(&running.pod);
            std::fs::remove_dir_all(&pod.log_directory).expect("remove a log");
        }
    }
    eprintln!("bench: logs, done");
}

/// Seconds from the first line of a log to its last.
fn log_seconds(path: &Path) -> f64 {
    /// More than a line.
    const TAIL: u64 = 512;
    const DAY_S: f64 = 86400.0;
    let mut file = File::open(path).expect("open the log");
    let mut first = String::new();
    BufReader::new(&mut file)
        .read_line(&mut first)
        .expect("read the log");
    let length = file.metadata().expect("look at the log").len();
    assert!(length > 1 << 20, "the log has only {length} bytes: {first}");
    file.seek(SeekFrom::Start(length - TAIL))
        .expect("seek in the log");
    let mut tail = String::new();
    file.read_to_string(&mut tail).expect("read the log's end");
    let last = tail.lines().last().expect("a last line");
    (time_of_day(last) - time_of_day(&first)).rem_euclid(DAY_S)
}

/// The seconds since midnight of a log line's time stamp, RFC 3339.
fn time_of_day(line: &str) -> f64 {
    let time = line
        .split(' ')
        .next()
        .and_then(|stamp| stamp.split_once('T'))
        .expect("a time stamp")
        .1;
    let time = time.split(['Z', '+', '-']).next().unwrap_or_default();
    let parts: Vec<f64> = time
        .split(':')
        .map(|part| part.parse().expect("a number"))
        .collect();
    parts[0] * 3600.0 + parts[1] * 60.0 + parts[2]
}

/// Seconds to pull and unpack a large image.
pub(crate) fn pulls(targets: &[Target], large: &Large, figures: &mut Figures) {
    for _ in 0..ROUNDS {
        for target in targets.iter().filter(|target| target.who != Who::CriquetPlugins) {
            run("sync", &[]);
            let start = Instant::now();
            let request = cri::PullImageRequest {
                image: Some(image(&large.name)),
                ..cri::PullImageRequest::default()
            };
            target.cri().pull_image(request).expect("PullImage");
            figures.add(Row::Pull, target.who, ms(start) / 1000.0);
            let request = cri::RemoveImageRequest {
                image: Some(image(&large.name)),
            };
            target.cri().remove_image(request).expect("RemoveImage");
        }
    }
    eprintln!("bench: pulls, done");
}
