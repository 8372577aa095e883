//! Attackers that wait inside, or in a volume, for the moment in which the runtime passes by.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use criquet_tests::{BUSYBOX, Node, PATIENCE_S, container, cri, host, pod};
use rustix::fs::{RenameFlags, SealFlags};

use crate::canary::Canary;
use crate::hostile::digest;
use crate::probe::{self, security, sleeper, try_launch, volume};

/// How many containers a race is tried with; more find no more in the time that a suite has.
const ROUNDS: u32 = 200;
/// A busy machine gets through fewer; these it must.
const ROUNDS_MIN: u32 = 10;
/// And the one who exchanges names as often.
const SWAPS_MIN: u64 = 1000;
/// A race ends after so long.
const RACE: Duration = Duration::from_secs(15);
/// For so long newcomers are watched.
const WATCHED: Duration = Duration::from_secs(8);
/// But goes on, for at most so long, until it was one: on a busy machine that takes longer.
const LONGEST: Duration = Duration::from_secs(900);

/// Exchanges two names for as long as it lives: a folder and a link to the canary.
struct Racer {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Racer {
    fn start(a: PathBuf, b: PathBuf) -> Racer {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            let cwd = rustix::fs::CWD;
            while !stopped.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(cwd, &a, cwd, &b, RenameFlags::EXCHANGE).expect("exchange");
                // The runtime wants to get on as well: it has two cores, or one.
                if count.fetch_add(1, Ordering::Relaxed) % 8 == 0 {
                    std::thread::sleep(Duration::from_micros(20));
                }
            }
        });
        Racer {
            stop,
            swaps,
            thread: Some(thread),
        }
    }

    fn has_raced(&self) -> bool {
        self.swaps.load(Ordering::Relaxed) > SWAPS_MIN
    }

    fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("a thread").join().expect("the racer");
        assert!(self.has_raced(), "the racer hardly ran");
    }
}

/// The runtime's files: none may change.
fn programs(node: &Node) -> Vec<(PathBuf, String)> {
    let daemon = std::fs::read_link(format!("/proc/{}/exe", node.pid())).unwrap();
    let shim = daemon.parent().unwrap().join("criquet-shim");
    [daemon, shim]
        .map(|path| (path.clone(), digest(&std::fs::read(&path).unwrap())))
        .to_vec()
}

/// CVE-2019-5736 and CVE-2016-9962: a container watches every process that comes in by exec.
#[test]
fn cve_2019_5736_newcomers_are_watched() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let before = programs(&node);
    let pod = node.pod(pod("grab"));
    let mut config = container("grab", BUSYBOX, &["/probe", "grab"]);
    config.mounts = vec![probe::mount(&node)];
    let id = node.launch(&pod, config);
    let has_seen_some = || {
        node.messages(&pod, "grab.log")
            .lines()
            .any(|line| line == "enough")
    };
    let (begin, mut execs) = (Instant::now(), 0);
    while begin.elapsed() < WATCHED || execs <= 20 || !has_seen_some() {
        assert!(begin.elapsed() < LONGEST, "{execs} execs, and few were seen");
        execs += u32::from(node.exec(&id, &["true"]).code == 0);
    }
    assert_eq!(node.exec(&id, &["touch", "/tmp/stop"]).code, 0);
    assert_eq!(node.wait_exit(&id, PATIENCE_S).exit_code, 0);
    let told = node.messages(&pod, "grab.log");
    assert!(!told.contains("GOT"), "{told}");
    assert_eq!(programs(&node), before);
    canary.assert_unchanged();
}

/// CVE-2019-5736: the shim is no file of the host, and nobody can write to what it is.
#[test]
fn cve_2019_5736_the_shim_is_sealed_memory() {
    let node = Node::start();
    let pod = node.pod(pod("sealed"));
    sleeper(&node, &pod, "sealed", |_| {});
    let shims: Vec<i32> = node
        .place
        .processes()
        .iter()
        .filter(|process| {
            let exe = std::fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap_or_default();
            exe.to_string_lossy().starts_with("/memfd:")
        })
        .map(|process| process.pid)
        .collect();
    assert_eq!(shims.len(), 1, "{:?}", node.place.processes());
    let exe = format!("/proc/{}/exe", shims[0]);
    let seals = rustix::fs::fcntl_get_seals(File::open(&exe).unwrap()).unwrap();
    assert!(
        seals.contains(SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL),
        "{seals:?}"
    );
    let written = File::options()
        .write(true)
        .open(&exe)
        .and_then(|mut file| std::io::Write::write(&mut file, b"x"));
    assert!(written.is_err());
    let status = std::fs::read_to_string(format!("/proc/{}/environ", shims[0])).unwrap();
    assert_eq!(status, "", "the shim has no environment");
}

fn race(
    name: &str,
    change: impl Fn(&mut cri::ContainerConfig),
    rounds: u32,
    swap: impl FnOnce(&Path, &Canary) -> (PathBuf, PathBuf),
) {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(pod(name));
    node.pull(BUSYBOX);
    let shared = node.work().join("shared");
    std::fs::create_dir_all(&shared).unwrap();
    let (a, b) = swap(&shared, &canary);
    let racer = Racer::start(a, b);
    let (mut made, mut round) = (0, 0);
    let begin = Instant::now();
    let goes_on = |round| round < rounds && (round < ROUNDS_MIN || begin.elapsed() < RACE);
    while goes_on(round) || ((made == 0 || !racer.has_raced()) && begin.elapsed() < LONGEST) {
        round += 1;
        let mut config = container(&format!("c{round}"), BUSYBOX, &["true"]);
        config.log_path = String::new();
        let shared = shared.display().to_string();
        config.mounts = vec![volume(&shared, "/vol")];
        change(&mut config);
        config
            .mounts
            .iter_mut()
            .for_each(|mount| mount.host_path = mount.host_path.replace("@shared", &shared));
        match try_launch(&node, &pod, config) {
            Ok(id) => {
                made += 1;
                node.remove_container(&id);
            }
            // A refusal is an answer; a path that was never found would be a test of nothing.
            Err(error) => assert!(!error.message().contains("deadline"), "{error:?}"),
        }
    }
    racer.finish();
    canary.assert_unchanged();
    let placed = host::tree(&canary.folder)
        .into_iter()
        .filter(|path| path.contains("inner"))
        .count();
    assert_eq!((placed, made > 0), (0, true), "{made} of {round} were made");
    println!("{made} of {round} were made");
    node.remove_pod(&pod.id);
    node.assert_clean();
}

fn folder_and_link(shared: &Path, canary: &Canary) -> (PathBuf, PathBuf) {
    let (folder, link) = (shared.join("target"), shared.join("link"));
    std::fs::create_dir_all(folder.join("inner")).unwrap();
    // From inside any root, and from the host.
    std::os::unix::fs::symlink(format!("../../../../../../../..{}", canary.path("")), &link).unwrap();
    (folder, link)
}

/// CVE-2021-30465, CVE-2024-45310: a mount point in a volume is a folder when it is checked, and a link when it is used.
#[test]
fn cve_2021_30465_mount_points_are_swapped() {
    let change = |config: &mut cri::ContainerConfig| {
        config.mounts.push(volume("/usr/share", "/vol/target/inner"));
        config
            .mounts
            .push(volume("/etc/hostname", "/vol/target/innerfile"));
        config.working_dir = "/vol/target/inner".into();
    };
    race("swapped", change, ROUNDS, folder_and_link);
}

/// CVE-2025-31133, CVE-2025-52565: /dev is a volume in which null, console and pts are links a moment later. What
/// covers a masked path is the host's null device all the same.
#[test]
fn cve_2025_31133_masks_with_a_null_device_that_is_swapped() {
    let core_pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let change = |config: &mut cri::ContainerConfig| {
        config.mounts = vec![volume("@shared", "/dev")];
        config.command = ["sh", "-c", "echo '|/x' > /proc/kcore; echo x > /proc/keys; true"]
            .map(String::from)
            .into();
        let security = security(config);
        security.masked_paths = ["/proc/kcore", "/proc/keys", "/proc/timer_list"]
            .map(String::from)
            .into();
        security.readonly_paths = ["/proc/sys".to_string()].into();
    };
    let swap = |shared: &Path, _: &Canary| {
        for name in ["pts", "shm", "mqueue"] {
            std::fs::create_dir(shared.join(name)).unwrap();
        }
        let (null, link) = (shared.join("null"), shared.join("link"));
        std::fs::write(&null, "").unwrap();
        std::os::unix::fs::symlink("/proc/sys/kernel/core_pattern", &link).unwrap();
        (null, link)
    };
    race("masks", change, ROUNDS / 2, swap);
    assert_eq!(
        std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        core_pattern
    );
}

/// CVE-2025-52565: with a terminal, and the folder of terminals a link a moment later.
#[test]
fn cve_2025_52565_the_console_of_a_swapped_devpts() {
    let change = |config: &mut cri::ContainerConfig| {
        config.mounts = vec![volume("@shared", "/dev")];
        config.tty = true;
    };
    let swap = |shared: &Path, canary: &Canary| {
        let (folder, link) = (shared.join("pts"), shared.join("link"));
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(canary.path(""), &link).unwrap();
        std::os::unix::fs::symlink(canary.path("file"), shared.join("console")).unwrap();
        (folder, link)
    };
    race("console", change, ROUNDS / 4, swap);
}

/// A mask covers what it says: a file with the null device, a folder with an empty one that takes nothing.
#[test]
fn masks_are_what_they_say() {
    let node = Node::start();
    let pod = node.pod(pod("masks"));
    let id = sleeper(&node, &pod, "masks", |security| {
        security.masked_paths = [
            "/proc/keys",
            "/proc/scsi",
            "/etc/passwd",
            "/home",
            "/no/such/path",
        ]
        .map(String::from)
        .into();
    });
    let out = node
        .exec(
            &id,
            &["stat", "-L", "-c", "%t:%T %F", "/proc/keys", "/etc/passwd"],
        )
        .ok();
    assert_eq!(out, "1:3 character special file\n1:3 character special file\n");
    for folder in ["/proc/scsi", "/home"] {
        let out = node.exec(
            &id,
            &[
                "sh",
                "-c",
                &format!("ls -A {folder} | wc -l; touch {folder}/x || echo refused"),
            ],
        );
        assert_eq!(out.stdout, "0\nrefused\n", "{folder}: {out:?}");
    }
}
