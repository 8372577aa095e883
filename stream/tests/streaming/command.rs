//! Exec and attach over SPDY.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::fake::{FOREVER, Fake, exec, options, wait_for};
use crate::spdy::{Client, Frame};
use criquet_stream::{Server, Session};

const ERROR: u32 = 1;
const STDIN: u32 = 3;
const STDOUT: u32 = 5;
const STDERR: u32 = 7;
const RESIZE: u32 = 9;

async fn server() -> (Server, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    (Server::start(options(), Arc::clone(&fake)).await.unwrap(), fake)
}

async fn client(server: &Server, session: Session, protocol: &str) -> Client {
    let (stdin, tty) = match session {
        Session::Exec { stdin, tty, .. } | Session::Attach { stdin, tty, .. } => (stdin, tty),
        Session::PortForward { .. } => (false, false),
    };
    let mut client = Client::connect(&server.url(session).unwrap(), protocol).await;
    let streams = [
        (ERROR, "error", true),
        (STDIN, "stdin", stdin),
        (STDOUT, "stdout", true),
        (STDERR, "stderr", !tty),
        (RESIZE, "resize", tty),
    ];
    for (stream, kind, _) in streams.into_iter().filter(|(.., wanted)| *wanted) {
        client.open(stream, &[("streamtype", kind)]).await;
        assert_eq!(client.next().await, Some(Frame::Reply(stream)));
    }
    client
}

#[tokio::test]
async fn output_error_output_and_exit_code() {
    let (server, _) = server().await;
    let session = exec(&["sh", "-c", "echo out; echo err >&2; exit 42"], false, false);
    let (bytes, ended) = client(&server, session, "v4.channel.k8s.io").await.rest().await;
    assert_eq!(bytes[&STDOUT], b"out\n");
    assert_eq!(bytes[&STDERR], b"err\n");
    let status: serde_json::Value = serde_json::from_slice(&bytes[&ERROR]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "42");
    assert_eq!(ended, [STDOUT, STDERR, ERROR]);
    wait_for("the session ends", || server.sessions() == 0).await;
}

#[tokio::test]
async fn old_protocols_speak_text() {
    let (server, _) = server().await;
    for protocol in ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
        let session = exec(&["false"], false, false);
        let (bytes, _) = client(&server, session, protocol).await.rest().await;
        assert_eq!(bytes[&ERROR], b"command terminated with non-zero exit code: 1");
        let (bytes, _) = client(&server, exec(&["true"], false, false), protocol)
            .await
            .rest()
            .await;
        assert!(bytes[&ERROR].is_empty());
    }
}

#[tokio::test]
async fn what_cannot_run_is_said() {
    let (server, _) = server().await;
    let session = exec(&["/nonexistent"], false, false);
    let (bytes, _) = client(&server, session, "v4.channel.k8s.io").await.rest().await;
    let status: serde_json::Value = serde_json::from_slice(&bytes[&ERROR]).unwrap();
    assert_eq!(status["reason"], "InternalError");
    assert!(status["message"].as_str().unwrap().contains("/nonexistent"));
}

#[tokio::test]
async fn stdin_ends_and_all_comes_back() {
    let (server, _) = server().await;
    let client = client(&server, exec(&["cat"], false, true), "v4.channel.k8s.io").await;
    let sent: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let (mut from, mut to) = client.socket.into_split();
    let writer = async {
        for (index, piece) in sent.chunks(100_000).enumerate() {
            let fin = u8::from((index + 1) * 100_000 == sent.len());
            let [_, a, b, c] = u32::try_from(piece.len()).unwrap().to_be_bytes();
            let head = [0, 0, 0, 3, fin, a, b, c];
            tokio::io::AsyncWriteExt::write_all(&mut to, &[&head, piece].concat())
                .await
                .unwrap();
        }
    };
    let reader = async {
        let mut all = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut from, &mut all)
            .await
            .unwrap();
        let mut got = Vec::new();
        let mut rest = all.as_slice();
        while rest.len() >= 8 {
            let length = usize::from(rest[5]) << 16 | usize::from(rest[6]) << 8 | usize::from(rest[7]);
            if rest[..4] == STDOUT.to_be_bytes() {
                got.extend_from_slice(&rest[8..8 + length]);
            }
            rest = &rest[8 + length..];
        }
        got
    };
    let ((), got) = tokio::join!(writer, reader);
    assert!(got == sent, "{} bytes came back of {}", got.len(), sent.len());
}

#[tokio::test]
async fn a_terminal_takes_its_size_and_ends() {
    let (server, _) = server().await;
    let mut client = client(&server, exec(&["sh"], true, true), "v4.channel.k8s.io").await;
    client
        .data(RESIZE, b"{\"Width\":123,\"Height\":45}\n", false)
        .await;
    // The size travels beside the input: it may come later. The typed text holds no answer.
    let script = b"until [ \"$(stty size)\" = '45 123' ]; do sleep 0.1; done; echo is-$((1)); exit 7\n";
    client.data(STDIN, script, false).await;
    let (bytes, _) = client.rest().await;
    let output = String::from_utf8_lossy(&bytes[&STDOUT]);
    assert!(output.contains("is-1"), "{output}");
    assert!(String::from_utf8_lossy(&bytes[&ERROR]).contains(r#""7""#));
}

#[tokio::test]
async fn a_child_left_behind_does_not_hold_the_session() {
    let (server, _) = server().await;
    let session = exec(&["sh", "-c", "sleep 600 & echo $!"], false, false);
    let (bytes, _) = client(&server, session, "v4.channel.k8s.io").await.rest().await;
    let child: i32 = String::from_utf8_lossy(&bytes[&STDOUT]).trim().parse().unwrap();
    // It was not waited for: it is still there.
    let command = std::fs::read(format!("/proc/{child}/cmdline")).unwrap();
    assert_eq!(command.split(|byte| *byte == 0).next(), Some(b"sleep".as_slice()));
    let child = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_process_that_reads_nothing_does_not_hold_the_client() {
    let (server, _) = server().await;
    let session = exec(&["sh", "-c", "exec <&-; sleep 0.5; echo end"], false, true);
    let mut client = client(&server, session, "v4.channel.k8s.io").await;
    client.data(STDIN, &vec![0; 8 << 20], true).await;
    let (bytes, _) = client.rest().await;
    assert_eq!(bytes[&STDOUT], b"end\n");
}

#[tokio::test]
async fn attach_succeeds_whatever_the_container_says() {
    let (server, _) = server().await;
    let container = "read line; echo got $line; exit 3".to_owned();
    let session = Session::Attach {
        container,
        tty: false,
        stdin: true,
        stdout: true,
        stderr: true,
    };
    let mut client = client(&server, session, "v4.channel.k8s.io").await;
    client.data(STDIN, b"it\n", false).await;
    let (bytes, _) = client.rest().await;
    assert_eq!(bytes[&STDOUT], b"got it\n");
    assert_eq!(bytes[&ERROR], br#"{"metadata":{},"status":"Success"}"#);
}

#[tokio::test]
async fn the_process_ends_with_its_client() {
    let (server, fake) = server().await;
    let client = client(
        &server,
        exec(&["sleep", FOREVER], false, false),
        "v4.channel.k8s.io",
    )
    .await;
    wait_for("the process runs", || fake.running.load(Ordering::SeqCst) == 1).await;
    drop(client);
    wait_for("the process ends", || fake.running.load(Ordering::SeqCst) == 0).await;
    wait_for("the session ends", || server.sessions() == 0).await;
}

#[tokio::test]
async fn pings_are_answered_and_strange_streams_refused() {
    let (server, _) = server().await;
    let mut client = client(&server, exec(&["cat"], false, true), "v4.channel.k8s.io").await;
    client.send(&crate::spdy::control(6, &[0, 0, 0, 1])).await;
    assert_eq!(client.next().await, Some(Frame::Ping(1)));
    client.open(11, &[("streamtype", "stdout")]).await;
    assert_eq!(client.next().await, Some(Frame::Reset(11, 3)));
    client.data(STDIN, b"x", true).await;
    assert_eq!(client.rest().await.0[&STDOUT], b"x");
}

#[tokio::test]
async fn streams_that_do_not_come_end_the_session() {
    let fake = Arc::new(Fake::default());
    let mut options = options();
    options.creation_timeout = Duration::from_millis(200);
    let server = Server::start(options, fake).await.unwrap();
    let url = server.url(exec(&["true"], false, false)).unwrap();
    let mut client = Client::connect(&url, "v4.channel.k8s.io").await;
    client.open(1, &[("streamtype", "error")]).await;
    // On a busy machine the time is over before the stream is there.
    let mut frame = client.next().await;
    if frame == Some(Frame::Reply(1)) {
        frame = client.next().await;
    }
    assert_eq!(frame, Some(Frame::GoAway));
    drop(client);
    wait_for("the session ends", || server.sessions() == 0).await;
}

#[tokio::test]
async fn an_idle_session_ends() {
    let fake = Arc::new(Fake::default());
    let mut options = options();
    // Long enough for the client to open its streams.
    options.idle_timeout = Duration::from_secs(2);
    let server = Server::start(options, Arc::clone(&fake)).await.unwrap();
    let mut client = client(
        &server,
        exec(&["sleep", FOREVER], false, false),
        "v4.channel.k8s.io",
    )
    .await;
    assert_eq!(client.next().await, Some(Frame::GoAway));
    wait_for("the process ends", || fake.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn hostile_clients_end_alone() {
    let (server, fake) = server().await;
    let mut good = client(&server, exec(&["cat"], false, true), "v4.channel.k8s.io").await;
    let bomb = {
        let mut spare = Client::connect(
            &server.url(exec(&["cat"], false, true)).unwrap(),
            "v4.channel.k8s.io",
        )
        .await;
        let zeros = spare.deflate(&vec![0; 10 << 20]);
        crate::spdy::control(1, &[&[0, 0, 0, 21, 0, 0, 0, 0, 0, 0], zeros.as_slice()].concat())
    };
    let pings = crate::spdy::control(6, &[0, 0, 0, 1]).repeat(1_000_000);
    let table: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 64],
        &[0; 64],
        &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
        &crate::spdy::control(4, &[0xff; 4]),
        &crate::spdy::control(1, &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 2, 3]),
        &bomb,
        &pings,
    ];
    for bytes in table {
        let mut bad = client(
            &server,
            exec(&["sleep", FOREVER], false, true),
            "v4.channel.k8s.io",
        )
        .await;
        // The server may hang up before it has read all.
        drop(tokio::io::AsyncWriteExt::write_all(&mut bad.socket, bytes).await);
        while bad.next().await.is_some() {}
    }
    wait_for("their processes end", || fake.running.load(Ordering::SeqCst) == 1).await;
    good.data(STDIN, b"still here", true).await;
    assert_eq!(good.rest().await.0[&STDOUT], b"still here");
}

#[tokio::test]
async fn a_slow_client_gets_all_that_was_written() {
    let (server, _) = server().await;
    let session = exec(&["head", "-c", "9000000", "/dev/zero"], false, false);
    let mut client = client(&server, session, "v4.channel.k8s.io").await;
    // Long enough that the process, whose last bytes fit in its pipe, and the time to drain it, are over.
    let mut got = 0;
    while got < 8_000_000 {
        let Some(Frame::Data(STDOUT, bytes, false)) = client.next().await else {
            panic!("end after {got} bytes")
        };
        got += bytes.len();
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(got + client.rest().await.0[&STDOUT].len(), 9_000_000);
}
