//! Further processes in the container.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use criquet_proto::shim::{Process, Resize, failed, reply, request};
use criquet_sys::pipe;

use crate::client::{exit_of, failure_of};
use crate::host::{Host, Running, eventually, process, read_to_end, read_until};

fn sleeper() -> Running {
    Host::shell("sleep 1000").start()
}

#[test]
fn bytes_go_straight() {
    let c = sleeper();
    let (stdin, stdout, stderr) = (
        pipe::pipe().unwrap(),
        pipe::pipe().unwrap(),
        pipe::pipe().unwrap(),
    );
    let script = process(&["sh", "-c", "cat; echo err >&2; exit 5"]);
    let given = [
        Some(stdin.read.as_fd()),
        Some(stdout.write.as_fd()),
        Some(stderr.write.as_fd()),
    ];
    let (started, fds) = c.client.exec(&script, given);
    assert!(
        matches!(started, reply::Kind::Started(s) if s.pid > 0 && !s.terminal),
        "{started:?}"
    );
    assert!(fds.is_empty());
    drop((stdin.read, stdout.write, stderr.write));
    std::fs::File::from(stdin.write).write_all(b"hello").unwrap();
    assert_eq!(read_to_end(stdout.read), "hello");
    assert_eq!(read_to_end(stderr.read), "err\n");
    let exit = exit_of(c.client.receive().0);
    assert_eq!((exit.code, exit.signal), (5, 0));
    // A late signal finds nobody, above all not the container itself.
    assert_eq!(failure_of(c.client.signal(9, false)).kind(), failed::Kind::State);
    assert_eq!(failure_of(c.client.signal(9, true)).kind(), failed::Kind::State);
    // Streams can be left out.
    let other = c.connect();
    let (started, _) = other.exec(&process(&["sh", "-c", "cat; echo nowhere; exit 6"]), [None; 3]);
    assert!(matches!(started, reply::Kind::Started(_)), "{started:?}");
    assert_eq!(exit_of(other.receive().0).code, 6);
    assert!(c.host.log().is_empty());
}

#[test]
fn a_terminal_is_handed_over() {
    let c = sleeper();
    let script = "stty size; read line; stty size; echo got $line; exit 4";
    let terminal = Process {
        terminal: true,
        width: 80,
        height: 24,
        ..process(&["sh", "-c", script])
    };
    let (started, mut fds) = c.client.exec(&terminal, [None; 3]);
    assert!(
        matches!(started, reply::Kind::Started(s) if s.terminal),
        "{started:?}"
    );
    let master = fds.remove(0);
    let mut keyboard = std::fs::File::from(master.try_clone().unwrap());
    let resize = request::Kind::Resize(Resize {
        width: 132,
        height: 50,
    });
    // It has looked at its size: the new one is for the second look.
    assert_eq!(read_until(&master, "\n"), "24 80\r\n");
    assert!(matches!(c.client.call(resize, &[]).0, reply::Kind::Done(_)));
    keyboard.write_all(b"word\n").unwrap();
    assert_eq!(exit_of(c.client.receive().0).code, 4);
    drop(keyboard);
    let text = read_to_end(master).replace('\r', "");
    assert_eq!(text, "word\n50 132\ngot word\n");
}

#[test]
fn signals_reach_the_process_and_its_group() {
    let c = sleeper();
    let (started, _) = c.client.exec(&process(&["sleep", "1000"]), [None; 3]);
    assert!(matches!(started, reply::Kind::Started(_)));
    assert!(matches!(c.client.signal(15, false), reply::Kind::Done(_)));
    let exit = exit_of(c.client.receive().0);
    assert_eq!((exit.code, exit.signal), (143, 15));

    let other = c.connect();
    let out = pipe::pipe().unwrap();
    let script = process(&["sh", "-c", "sleep 1000 & sleep 1000 & echo ready; wait"]);
    other.exec(&script, [None, Some(out.write.as_fd()), None]);
    drop(out.write);
    let mut ready = [0; 6];
    let mut reader = std::fs::File::from(out.read);
    reader.read_exact(&mut ready).unwrap();
    assert!(matches!(other.signal(9, true), reply::Kind::Done(_)));
    assert_eq!(exit_of(other.receive().0).signal, 9);
    // The end comes only when all are gone that held the pipe.
    assert_eq!(read_to_end(reader.into()), "");
    let alive = c.connect().signal(10, false);
    assert!(
        matches!(alive, reply::Kind::Done(_)),
        "the container is still there: {alive:?}"
    );
}

#[test]
fn a_lost_connection_ends_nothing() {
    let c = sleeper();
    let other = c.connect();
    let script = process(&["sh", "-c", "sleep 0.3; echo done >/tmp/mark"]);
    other.exec(&script, [None; 3]);
    drop(other);
    let mark = c.host.dir.path().join("upper/tmp/mark");
    eventually(|| std::fs::read_to_string(&mark).is_ok_and(|text| text == "done\n"));
}

#[test]
fn a_missing_program_is_told() {
    let c = sleeper();
    let failed = failure_of(c.client.exec(&process(&["no-such-program"]), [None; 3]).0);
    assert!(failed.message.contains("no-such-program"), "{}", failed.message);
    assert!(matches!(
        c.client.exec(&process(&["true"]), [None; 3]).0,
        reply::Kind::Started(_)
    ));
    assert_eq!(exit_of(c.client.receive().0).code, 0);
}

#[test]
fn nothing_piles_up() {
    let c = sleeper();
    let fds = || {
        std::fs::read_dir(format!("/proc/{}/fd", c.shim.pid()))
            .unwrap()
            .count()
    };
    let before = fds();
    for _ in 0..20 {
        let (echo, shell) = (c.connect(), c.connect());
        let out = pipe::pipe().unwrap();
        echo.exec(&process(&["echo", "x"]), [None, Some(out.write.as_fd()), None]);
        assert_eq!(exit_of(echo.receive().0).code, 0);
        failure_of(shell.exec(&process(&["/no"]), [None; 3]).0);
        shell.exec(
            &Process {
                terminal: true,
                ..process(&["true"])
            },
            [None; 3],
        );
        assert_eq!(exit_of(shell.receive().0).code, 0);
    }
    eventually(|| fds() <= before);
    let children = || std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", c.shim.pid())).unwrap();
    eventually(|| children().split_whitespace().count() == 1);
}
