//! Measures criquet and a peer on one machine, with the same images and the same network, in turns: what is busy
//! on the machine is busy for both. Writes a table between two marks of docs/performance.md.
#![forbid(unsafe_code)]
// A measurement that cannot go on panics with what it was doing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::let_underscore_must_use,
    missing_debug_implementations
)]

mod containerd;
mod figures;
mod image;
mod machine;
mod memory;
mod pods;
mod report;
mod target;
mod throughput;

use std::path::PathBuf;

use figures::Figures;
use target::Target;

/// What was asked on the command line.
struct Options {
    runs: usize,
    peer: bool,
    document: PathBuf,
}

fn options() -> Options {
    let mut found = Options {
        runs: 20,
        peer: true,
        document: criquet_tests::workspace().join("docs/performance.md"),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments
            .next()
            .unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--runs" => found.runs = value.parse().expect("--runs takes a number"),
            "--peer" => found.peer = value == "containerd",
            "--document" => found.document = value.into(),
            other => panic!("unknown argument {other}"),
        }
    }
    assert!(found.runs > 0, "--runs takes a number above 0");
    found
}

fn main() {
    let options = options();
    let load = machine::load();
    let mut figures = Figures::default();
    // The node with the plugins first: the last one's network namespace is the one that the peer starts in.
    let mut targets = vec![Target::criquet_with_plugins(), Target::criquet()];
    if options.peer {
        let peer = Target::containerd(&targets[1]);
        targets.push(peer);
    }
    let large = image::Large::serve(&targets[1]);
    for target in &targets {
        target.prepare();
    }
    pods::measure(&targets, options.runs, &mut figures);
    throughput::pods(&targets, options.runs, &mut figures);
    throughput::logs(&targets, &mut figures);
    throughput::pulls(&targets, &large, &mut figures);
    memory::measure(&mut targets, options.runs, &mut figures);
    let table = report::table(&figures, &machine::describe(&load), options.runs);
    // Before the ending, whose failure must not take the figures along.
    report::write(&options.document, &table);
    println!("{table}");
    // The peer lives in criquet's network namespace: it goes first.
    while let Some(target) = targets.pop() {
        target.finish();
    }
}
