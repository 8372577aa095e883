//! The machine that was measured on.

use std::fs;

use criquet_tests::run;

/// The load average of the last minute, and over how many processors.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_string()
}

/// One line: processors, memory, kernel, file system, load before the run.
pub(crate) fn describe(load: &str) -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    let word = |program: &str, arguments: &[&str]| run(program, arguments).ok().trim().to_string();
    format!(
        "{}: {processors} cores, {} GiB, Linux {}, {} below /var/tmp; load before the run {load}.",
        word("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        kilobytes.div_ceil(1 << 20),
        word("uname", &["-r"]),
        word("stat", &["-f", "-c", "%T", "/var/tmp"]),
    )
}
