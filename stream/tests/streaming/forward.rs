//! Port-forward over SPDY and WebSocket channels.

use std::sync::Arc;
use std::time::Duration;

use crate::fake::{Fake, PATIENCE, options};
use crate::spdy::{Client, Frame};
use criquet_stream::{Server, Session};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_websockets::{ClientBuilder, Message};

/// Says "hi", then sends back what it gets until the end, then "bye".
async fn pod() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = socket.split();
                drop(to.write_all(b"hi ").await);
                drop(tokio::io::copy(&mut from, &mut to).await);
                drop(to.write_all(b" bye").await);
            });
        }
    });
    port
}

async fn server() -> Server {
    Server::start(options(), Arc::new(Fake::default())).await.unwrap()
}

async fn spdy_client(server: &Server) -> Client {
    let url = server
        .url(Session::PortForward {
            sandbox: "sandbox".into(),
            ports: vec![],
        })
        .unwrap();
    Client::connect(&url, "portforward.k8s.io").await
}

/// Opens the pair of streams `first` (error) and `first + 2` (data).
async fn open(client: &mut Client, first: u32, port: u16) {
    let (port, id) = (port.to_string(), first.to_string());
    for (stream, kind) in [(first, "error"), (first + 2, "data")] {
        client
            .open(
                stream,
                &[("streamtype", kind), ("port", &port), ("requestid", &id)],
            )
            .await;
        // Data of other pairs may come between.
        while !matches!(client.next().await, Some(Frame::Reply(reply)) if reply == stream) {}
    }
}

/// What comes on `stream` until it ends, with what comes on `error`.
async fn collect(client: &mut Client, error: u32, stream: u32) -> (Vec<u8>, Vec<u8>) {
    let (mut data, mut errors, mut ended) = (Vec::new(), Vec::new(), 0);
    while ended < 2 {
        match client.next().await.unwrap() {
            Frame::Data(id, bytes, fin) => {
                if id == stream {
                    data.extend(bytes);
                } else if id == error {
                    errors.extend(bytes);
                }
                ended += usize::from(fin);
            }
            Frame::Reset(..) => ended += 1,
            Frame::Reply(_) | Frame::Ping(_) => {}
            Frame::GoAway => panic!("the session ended"),
        }
    }
    (errors, data)
}

#[tokio::test]
async fn a_refused_port_does_not_end_the_session() {
    let (server, port) = (server().await, pod().await);
    // Bound and not listened on: nobody else gets it.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = bound.local_addr().unwrap().port();
    let mut client = spdy_client(&server).await;
    open(&mut client, 1, closed).await;
    let (error, data) = collect(&mut client, 1, 3).await;
    let error = String::from_utf8(error).unwrap();
    assert!(
        error.contains(&closed.to_string()) && error.contains("refused"),
        "{error}"
    );
    assert!(data.is_empty());
    for first in [5, 9] {
        open(&mut client, first, port).await;
        client.data(first + 2, b"there", true).await;
        let (error, data) = collect(&mut client, first, first + 2).await;
        assert_eq!(
            (error.as_slice(), data.as_slice()),
            (&b""[..], &b"hi there bye"[..])
        );
    }
    assert_eq!(server.sessions(), 1);
}

#[tokio::test]
async fn a_pod_that_hangs_up_is_no_error() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = spdy_client(&server).await;
    open(&mut client, 1, port).await;
    drop(listener.accept().await.unwrap());
    assert_eq!(collect(&mut client, 1, 3).await, (vec![], vec![]));
}

#[tokio::test]
async fn a_reset_stream_closes_its_connection() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = spdy_client(&server).await;
    open(&mut client, 1, port).await;
    let (mut socket, _) = listener.accept().await.unwrap();
    client
        .send(&crate::spdy::control(3, &[0, 0, 0, 3, 0, 0, 0, 5]))
        .await;
    let read = tokio::time::timeout(PATIENCE, socket.read(&mut [0; 8]))
        .await
        .unwrap();
    assert_eq!(read.unwrap_or(0), 0);
}

#[tokio::test]
async fn bad_streams_are_reset_alone() {
    let (server, port) = (server().await, pod().await);
    let mut client = spdy_client(&server).await;
    let long = "x".repeat(100);
    let bad: [&[(&str, &str)]; 6] = [
        &[],
        &[("streamtype", "data")],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "data"), ("port", "65536")],
        &[("streamtype", "other"), ("port", "80")],
        &[("streamtype", "data"), ("port", "80"), ("requestid", &long)],
    ];
    for (stream, headers) in (1..).step_by(2).zip(bad) {
        client.open(stream, headers).await;
        assert_eq!(client.next().await, Some(Frame::Reply(stream)));
        assert_eq!(client.next().await, Some(Frame::Reset(stream, 1)));
    }
    open(&mut client, 101, port).await;
    client.data(103, b"x", true).await;
    assert_eq!(collect(&mut client, 101, 103).await.1, b"hi x bye");
}

#[tokio::test]
async fn a_half_pair_expires() {
    let mut options = options();
    options.creation_timeout = Duration::from_millis(100);
    let server = Server::start(options, Arc::new(Fake::default())).await.unwrap();
    let mut client = spdy_client(&server).await;
    client
        .open(1, &[("streamtype", "error"), ("port", "80"), ("requestid", "0")])
        .await;
    assert_eq!(client.next().await, Some(Frame::Reply(1)));
    let Some(Frame::Data(1, why, false)) = client.next().await else {
        panic!("no error")
    };
    assert!(String::from_utf8(why).unwrap().contains("timed out"));
}

#[tokio::test]
async fn hundreds_of_connections_in_one_session() {
    let (server, port) = (server().await, pod().await);
    let mut client = spdy_client(&server).await;
    for round in 0..400 {
        let first = 1 + 4 * round;
        open(&mut client, first, port).await;
        client.data(first + 2, b"x", true).await;
        assert_eq!(collect(&mut client, first, first + 2).await.1, b"hi x bye");
    }
}

#[tokio::test]
async fn websocket_channels_per_port() {
    let (server, port) = (server().await, pod().await);
    let other = pod().await;
    let session = Session::PortForward {
        sandbox: "sandbox".into(),
        ports: vec![port, other],
    };
    let url = server.url(session).unwrap().replace("http", "ws");
    let protocol = http::HeaderValue::from_static("v4.channel.k8s.io");
    let builder = ClientBuilder::new().uri(&url).unwrap();
    let builder = builder
        .add_header(http::header::SEC_WEBSOCKET_PROTOCOL, protocol)
        .unwrap();
    let (mut client, _) = builder.connect().await.unwrap();
    for (channel, port) in [(0u8, port), (1, port), (2, other), (3, other)] {
        let [low, high] = port.to_le_bytes();
        let message = next_on(&mut client, channel).await;
        assert_eq!(message, [low, high]);
    }
    client.send(Message::binary(vec![2, b'o', b'k'])).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 5 {
        got.extend(next_on(&mut client, 2).await);
    }
    assert_eq!(got, b"hi ok");
}

async fn next_on<S>(client: &mut S, channel: u8) -> Vec<u8>
where
    S: futures_util::Stream<Item = Result<Message, tokio_websockets::Error>> + Unpin,
{
    loop {
        let message = client.next().await.unwrap().unwrap().into_payload();
        if message[0] == channel {
            return message[1..].to_vec();
        }
    }
}
