//! Containers on the real kernel, as root: made, released, joined. One thread, as in the shim, so this is a program
//! of its own: `cargo test -p criquet-shim --test kernel [NAME]`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod container;
mod hostile;
mod mounts;
mod namespaces;
mod program;

const TESTS: &[(&str, fn())] = &[
    ("plain", namespaces::plain),
    ("user_namespace", namespaces::user_namespace),
    ("joined_pid_namespace", namespaces::joined_pid_namespace),
    (
        "user_namespace_and_joined_pid_namespace",
        namespaces::user_namespace_and_joined_pid_namespace,
    ),
    ("host_namespaces", namespaces::host_namespaces),
    ("cgroup", namespaces::cgroup),
    ("unified_cgroup", namespaces::unified_cgroup),
    ("terminal", program::terminal),
    ("identity", program::identity),
    ("seccomp", program::seccomp),
    ("limits", program::limits),
    ("programs_that_cannot_run", program::programs_that_cannot_run),
    ("given_up", program::given_up),
    ("masks", mounts::masks),
    ("volumes", mounts::volumes),
    ("mapped_volume", mounts::mapped_volume),
    ("image_volume", mounts::image_volume),
    ("devices", mounts::devices),
    ("many_layers", mounts::many_layers),
    ("read_only", mounts::read_only),
    ("foreign_dev", mounts::foreign_dev),
    ("tried_again", mounts::tried_again),
    ("hostile_images", hostile::hostile_images),
    ("swapped_mount_points", hostile::swapped_mount_points),
    ("nothing_is_left", hostile::nothing_is_left),
];

fn main() {
    let wanted = std::env::args().nth(1).filter(|name| !name.starts_with('-'));
    let mut failed = 0;
    for (name, test) in TESTS
        .iter()
        .filter(|(name, _)| wanted.as_ref().is_none_or(|w| w == name))
    {
        let begin = std::time::Instant::now();
        let done = std::panic::catch_unwind(test);
        let outcome = if done.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {outcome} ({:?})", begin.elapsed());
        failed += usize::from(done.is_err());
    }
    assert_eq!(failed, 0, "tests failed");
}
