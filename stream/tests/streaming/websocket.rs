//! Exec over WebSocket, with a client that is not ours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::fake::{FOREVER, Fake, exec, options, wait_for};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criquet_stream::{Server, Session};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_websockets::{ClientBuilder, CloseCode, MaybeTlsStream, Message, WebSocketStream};

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn server() -> (Server, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    (Server::start(options(), Arc::clone(&fake)).await.unwrap(), fake)
}

async fn client(server: &Server, session: Session, protocol: &'static str) -> Client {
    let url = server.url(session).unwrap().replace("http", "ws");
    let mut builder = ClientBuilder::new().uri(&url).unwrap();
    if !protocol.is_empty() {
        let value = http::HeaderValue::from_static(protocol);
        builder = builder
            .add_header(http::header::SEC_WEBSOCKET_PROTOCOL, value)
            .unwrap();
    }
    let (client, answer) = builder.connect().await.unwrap();
    let chosen = answer.headers().get(http::header::SEC_WEBSOCKET_PROTOCOL);
    assert_eq!(chosen.map_or("", |value| value.to_str().unwrap()), protocol);
    client
}

/// What came on each channel, up to a normal closure.
async fn rest(client: &mut Client, base64: bool) -> BTreeMap<u8, Vec<u8>> {
    let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while let Some(message) = client.next().await {
        let message = message.unwrap();
        if let Some((code, _)) = message.as_close() {
            assert_eq!(code, CloseCode::NORMAL_CLOSURE);
            continue;
        }
        assert_eq!(message.is_text(), base64);
        let payload = message.into_payload();
        let (channel, bytes) = match base64 {
            true => (payload[0] - b'0', STANDARD.decode(&payload[1..]).unwrap()),
            false => (payload[0], payload[1..].to_vec()),
        };
        channels.entry(channel).or_default().extend(bytes);
    }
    channels
}

#[tokio::test]
async fn every_protocol_runs_a_command() {
    let (server, _) = server().await;
    let protocols = [
        ("v5.channel.k8s.io", false, true),
        ("v4.channel.k8s.io", false, true),
        ("v4.base64.channel.k8s.io", true, true),
        ("channel.k8s.io", false, false),
        ("base64.channel.k8s.io", true, false),
        ("", false, false),
    ];
    for (protocol, base64, json) in protocols {
        let session = exec(
            &["sh", "-c", "read line; echo got $line; echo err >&2; exit 5"],
            false,
            true,
        );
        let mut client = client(&server, session, protocol).await;
        let message = match base64 {
            true => Message::text(format!("0{}", STANDARD.encode("it\n"))),
            false => Message::binary(b"\0it\n".as_slice()),
        };
        client.send(message).await.unwrap();
        let channels = rest(&mut client, base64).await;
        assert_eq!(channels[&1], b"got it\n", "{protocol}");
        assert_eq!(channels[&2], b"err\n", "{protocol}");
        let status = String::from_utf8(channels[&3].clone()).unwrap();
        assert_eq!(status.starts_with('{'), json, "{protocol}: {status}");
        assert!(status.contains('5'), "{protocol}: {status}");
    }
}

#[tokio::test]
async fn the_close_signal_ends_stdin() {
    let (server, _) = server().await;
    let mut client = client(&server, exec(&["cat"], false, true), "v5.channel.k8s.io").await;
    let mut sent = vec![0];
    sent.extend((0..500_000u32).flat_map(u32::to_le_bytes));
    let (mut to, mut from) = futures_util::StreamExt::split(&mut client);
    let write = async {
        to.send(Message::binary(sent.clone())).await.unwrap();
        to.send(Message::binary([255u8, 0].as_slice())).await.unwrap();
    };
    let read = async {
        let mut got = vec![0];
        while let Some(Ok(message)) = from.next().await {
            if message.is_binary() && message.as_payload()[0] == 1 {
                got.extend(&message.into_payload()[1..]);
            }
        }
        got
    };
    let ((), got) = tokio::join!(write, read);
    assert!(got == sent, "{} of {}", got.len(), sent.len());
}

#[tokio::test]
async fn a_terminal_takes_its_size() {
    let (server, _) = server().await;
    let mut client = client(&server, exec(&["sh"], true, true), "v5.channel.k8s.io").await;
    client
        .send(Message::binary(b"\x04{\"Width\":123,\"Height\":45}".as_slice()))
        .await
        .unwrap();
    // The size travels beside the input: it may come later. The typed text holds no answer.
    let script = b"\0until [ \"$(stty size)\" = '45 123' ]; do sleep 0.1; done; echo is-$((1)); exit\n";
    client.send(Message::binary(script.as_slice())).await.unwrap();
    let output = rest(&mut client, false).await[&1].clone();
    let output = String::from_utf8_lossy(&output);
    assert!(output.contains("is-1"), "{output}");
}

#[tokio::test]
async fn a_client_that_closes_ends_its_process() {
    let (server, fake) = server().await;
    let mut client = client(
        &server,
        exec(&["sleep", FOREVER], false, false),
        "v5.channel.k8s.io",
    )
    .await;
    assert_eq!(client.next().await.unwrap().unwrap().as_payload()[..], [1]);
    client.send(Message::ping(b"x".as_slice())).await.unwrap();
    let pong = client.next().await.unwrap().unwrap();
    assert!(pong.is_pong() && pong.as_payload()[..] == b"x"[..]);
    client.close().await.unwrap();
    wait_for("the process ends with its client", || {
        fake.running.load(Ordering::SeqCst) == 0 && server.sessions() == 0
    })
    .await;
}

#[tokio::test]
async fn messages_for_nobody_are_ignored_and_nonsense_ends_the_session() {
    let (server, _) = server().await;
    let mut client = client(&server, exec(&["cat"], false, true), "v5.channel.k8s.io").await;
    for message in [&b""[..], b"\x01x", b"\x09x", b"\xfe", b"\0ok"] {
        client.send(Message::binary(message)).await.unwrap();
    }
    let mut got: Vec<u8> = Vec::new();
    while got.is_empty() {
        let message = client.next().await.unwrap().unwrap().into_payload();
        got.extend(&message[1..]);
    }
    assert_eq!(got, b"ok");
    client.send(Message::binary(b"\xff".as_slice())).await.unwrap();
    while let Some(Ok(_)) = client.next().await {}
}
