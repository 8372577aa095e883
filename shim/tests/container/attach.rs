//! Clients on the container's own stdio.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use criquet_proto::shim::{Attach, CloseStdin, Resize, reply, request};
use criquet_sys::pipe::{self, Pipe};

use crate::client::{Client, exit_of};
use crate::host::{Host, Running, read_to_end, read_until};

/// An attached client's ends.
struct Attached {
    client: Client,
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

fn attach(c: &Running) -> Attached {
    let client = c.connect();
    let [stdin, stdout, stderr]: [Pipe; 3] = std::array::from_fn(|_| pipe::pipe().unwrap());
    let all = Attach {
        stdin: true,
        stdout: true,
        stderr: true,
    };
    let fds = [stdin.read.as_fd(), stdout.write.as_fd(), stderr.write.as_fd()];
    assert!(matches!(
        client.call(request::Kind::Attach(all), &fds).0,
        reply::Kind::Done(_)
    ));
    Attached {
        client,
        stdin: stdin.write,
        stdout: stdout.read,
        stderr: stderr.read,
    }
}

fn type_in(fd: &OwnedFd, text: &[u8]) {
    std::fs::File::from(fd.try_clone().unwrap())
        .write_all(text)
        .unwrap();
}

#[test]
fn input_and_output_reach_everybody() {
    let mut host = Host::shell("while read line; do echo out $line; echo err $line >&2; done; exit 3");
    host.plan.stdin = true;
    host.plan.stdin_once = true;
    let c = host.create();
    let (one, two) = (attach(&c), attach(&c));
    assert!(matches!(c.client.start(), reply::Kind::Started(_)));
    type_in(&one.stdin, b"a\n");
    assert_eq!(read_until(&two.stdout, "\n"), "out a\n");
    type_in(&two.stdin, b"b\n");
    // Arrived before the end of the first one's, which is the end of all.
    assert_eq!(read_until(&two.stdout, "\n"), "out b\n");
    drop(one.stdin);
    let exit = exit_of(one.client.receive().0);
    assert_eq!(exit.code, 3);
    assert_eq!(exit_of(two.client.receive().0), exit);
    assert_eq!(read_to_end(one.stdout), "out a\nout b\n");
    assert_eq!(read_to_end(two.stdout), "");
    assert_eq!(read_to_end(one.stderr), "err a\nerr b\n");
    assert_eq!(read_to_end(two.stderr), "err a\nerr b\n");
    assert_eq!(c.host.log().len(), 4);
}

#[test]
fn stdin_stays_open_until_it_is_closed() {
    let mut host = Host::new(&["cat"]);
    host.plan.stdin = true;
    let c = host.start();
    let one = attach(&c);
    type_in(&one.stdin, b"first\n");
    drop(one.stdin);
    let mut first = [0; 6];
    std::fs::File::from(one.stdout).read_exact(&mut first).unwrap();
    drop(one.client);
    let two = attach(&c);
    type_in(&two.stdin, b"second\n");
    let mut second = [0; 7];
    std::fs::File::from(two.stdout.try_clone().unwrap())
        .read_exact(&mut second)
        .unwrap();
    assert!(two.client.poll(Duration::from_millis(50)).is_none());
    let (done, _) = two.client.call(request::Kind::CloseStdin(CloseStdin {}), &[]);
    assert!(matches!(done, reply::Kind::Done(_)));
    assert_eq!(exit_of(two.client.receive().0).code, 0);
}

#[test]
fn a_lot_of_input_arrives_whole() {
    let mut host = Host::shell("cat >/tmp/copy");
    host.plan.stdin = true;
    host.plan.stdin_once = true;
    let c = host.start();
    let one = attach(&c);
    let data: Vec<u8> = (0..3_000_000u32)
        .map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    type_in(&one.stdin, &data);
    drop(one.stdin);
    assert_eq!(exit_of(one.client.receive().0).code, 0);
    assert!(std::fs::read(c.host.dir.path().join("upper/tmp/copy")).unwrap() == data);
}

#[test]
fn a_slow_reader_holds_back_and_is_given_up() {
    let c = Host::shell("yes 0123456789 | head -c 3000000").create();
    let (slow, fast) = (attach(&c), attach(&c));
    let begin = Instant::now();
    assert!(matches!(c.client.start(), reply::Kind::Started(_)));
    let quick = std::thread::spawn(move || read_to_end(fast.stdout).len());
    let exit = c.wait();
    assert_eq!(exit.code, 0);
    // It was held back for the whole limit, and not for ever.
    assert!(begin.elapsed() >= Duration::from_secs(9));
    exit_of(slow.client.receive().0);
    exit_of(fast.client.receive().0);
    assert_eq!(quick.join().unwrap(), 3_000_000);
    assert!(read_to_end(slow.stdout).len() < 3_000_000);
    // Parts have no newline of their own, and neither has the cut last line.
    let logged: usize = c
        .host
        .log()
        .iter()
        .map(|(_, tag, text)| text.len() + usize::from(tag == "F"))
        .sum();
    assert_eq!(logged, 3_000_000);
}

#[test]
fn a_reader_that_leaves_disturbs_nobody() {
    let c = Host::shell("sleep 0.2; seq 1 100000").create();
    let gone = attach(&c);
    assert!(matches!(c.client.start(), reply::Kind::Started(_)));
    drop(gone);
    assert_eq!(c.wait().code, 0);
    assert_eq!(c.host.log().len(), 100_000);
}

#[test]
fn a_terminal_echoes_and_resizes() {
    let mut host = Host::shell("read a; stty size; read b; stty size; echo $a $b");
    host.plan.stdin = true;
    let process = host.plan.process.as_mut().unwrap();
    (process.terminal, process.width, process.height) = (true, 80, 24);
    let c = host.create();
    let one = attach(&c);
    assert!(matches!(c.client.start(), reply::Kind::Started(_)));
    type_in(&one.stdin, b"x\n");
    let shown = read_until(&one.stdout, "24 80\r\n");
    let (done, _) = one.client.call(
        request::Kind::Resize(Resize {
            width: 100,
            height: 40,
        }),
        &[],
    );
    assert!(matches!(done, reply::Kind::Done(_)));
    type_in(&one.stdin, b"y\n");
    assert_eq!(exit_of(one.client.receive().0).code, 0);
    let shown = shown + &read_to_end(one.stdout);
    assert_eq!(shown.replace('\r', ""), "x\n24 80\ny\n40 100\nx y\n");
    assert!(c.host.log().iter().all(|(stream, _, _)| stream == "stdout"));
}
