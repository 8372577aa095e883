//! The table.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::figures::{Figures, Row, Who};

const BEGIN: &str = "<!-- figures: begin (hack/bench writes what is between the marks) -->";
const END: &str = "<!-- figures: end -->";

struct Line {
    row: Row,
    name: &'static str,
    unit: &'static str,
    /// More is better.
    rate: bool,
    budget: &'static str,
}

const fn line(row: Row, name: &'static str, unit: &'static str, budget: &'static str) -> Line {
    Line {
        row,
        name,
        unit,
        rate: false,
        budget,
    }
}

const fn rate(row: Row, name: &'static str, unit: &'static str) -> Line {
    Line {
        row,
        name,
        unit,
        rate: true,
        budget: "",
    }
}

const LINES: [Line; 18] = [
    line(Row::Up, "pod and container up", "ms", "≤ 25 ms"),
    line(Row::UpSandbox, "– RunPodSandbox", "ms", ""),
    line(Row::UpCreate, "– CreateContainer", "ms", ""),
    line(Row::UpStart, "– StartContainer", "ms", ""),
    line(Row::UpHostNetwork, "pod and container up, host network", "ms", ""),
    line(Row::ExecSync, "ExecSync of /bin/true", "ms", "≤ 4 ms"),
    line(Row::Down, "pod and container down", "ms", ""),
    line(Row::DownStop, "– StopPodSandbox", "ms", ""),
    line(Row::DownRemove, "– RemovePodSandbox", "ms", ""),
    rate(Row::Parallel, "8 clients at once, pods up", "/s"),
    line(Row::Stats, "ListContainerStats, 20 containers", "ms", ""),
    line(Row::ShimPss20, "PSS of a shim, 20 containers", "KiB", "≤ 250 KiB"),
    line(Row::ShimPss100, "PSS of a shim, 100 containers", "KiB", ""),
    line(
        Row::PodPss20,
        "PSS per pod outside the daemon, 20 pods",
        "KiB",
        "",
    ),
    line(Row::DaemonPss20, "PSS of the daemon, 20 pods", "MiB", "≤ 15 MiB"),
    line(
        Row::Recovery50,
        "`kill -9` to a complete answer, 50 pods",
        "ms",
        "",
    ),
    rate(Row::Logs, "log of one container, 100-byte lines", "MB/s"),
    line(Row::Pull, "pull and unpack, 8 layers, 200 MB packed", "s", ""),
];

/// The Markdown table with its caption.
pub(crate) fn table(figures: &Figures, machine: &str, runs: usize) -> String {
    let mut text = format!("{machine}\nMedians, in turns; a call was measured {runs} times.\n\n");
    let peer = figures.median(Row::Up, Who::Containerd).is_some();
    text.push_str("| | criquet | criquet running the CNI plugins | budget |");
    text.push_str(if peer {
        " containerd and runc | criquet is better by |\n"
    } else {
        "\n"
    });
    text.push_str(if peer {
        "|---|---|---|---|---|---|\n"
    } else {
        "|---|---|---|---|\n"
    });
    for line in &LINES {
        let cell = |who| {
            figures
                .median(line.row, who)
                .map(|value| number(value, line.unit))
                .unwrap_or_default()
        };
        let (own, plugins) = (cell(Who::Criquet), cell(Who::CriquetPlugins));
        let _ = write!(text, "| {} | {own} | {plugins} | {} |", line.name, line.budget);
        if peer {
            let ratio = match (
                figures.median(line.row, Who::Criquet),
                figures.median(line.row, Who::Containerd),
            ) {
                (Some(own), Some(peer)) if line.rate => format!("{:.1}×", own / peer),
                (Some(own), Some(peer)) => format!("{:.1}×", peer / own),
                _ => String::new(),
            };
            let _ = write!(text, " {} | {ratio} |", cell(Who::Containerd));
        }
        text.push('\n');
    }
    text
}

fn number(value: f64, unit: &str) -> String {
    if value < 100.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// Puts the table between the marks of the document.
pub(crate) fn write(document: &Path, table: &str) {
    let text = fs::read_to_string(document).expect("read the document");
    let (before, rest) = text.split_once(BEGIN).expect("the document has the first mark");
    let (_, after) = rest.split_once(END).expect("the document has the second mark");
    fs::write(document, format!("{before}{BEGIN}\n\n{table}\n{END}{after}")).expect("write the document");
}
