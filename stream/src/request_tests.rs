use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

fn spdy_offer(offer: &[&'static str], kind: Kind) -> Result<(Protocol, HeaderMap), Refusal> {
    let mut request = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "spdy/3.1")]);
    for line in offer {
        request.append(STREAM_PROTOCOL, HeaderValue::from_static(line));
    }
    negotiate(&Method::POST, &request, kind)
}

fn websocket_offer(offer: &'static str, kind: Kind) -> Result<(Protocol, HeaderMap), Refusal> {
    let mut request = headers(&[
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]);
    if !offer.is_empty() {
        request.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offer));
    }
    negotiate(&Method::GET, &request, kind)
}

#[test]
fn routes() {
    assert_eq!(route("/exec/abc"), Some((Kind::Exec, "abc")));
    assert_eq!(route("/attach/abc"), Some((Kind::Attach, "abc")));
    assert_eq!(route("/portforward/abc"), Some((Kind::PortForward, "abc")));
    for bad in ["", "/", "exec/abc", "/exec", "/cri/exec/abc", "//abc"] {
        assert_eq!(route(bad), None, "{bad}");
    }
}

#[test]
fn spdy_takes_the_clients_first_choice() {
    let json = Protocol::SpdyCommand {
        form: Form::Json,
        resize: true,
    };
    let (protocol, answer) = spdy_offer(
        &["v9.channel.k8s.io, v4.channel.k8s.io", "channel.k8s.io"],
        Kind::Exec,
    )
    .unwrap();
    assert_eq!(protocol, json);
    assert_eq!(answer[STREAM_PROTOCOL], "v4.channel.k8s.io");
    assert_eq!(answer[UPGRADE], "SPDY/3.1");
    let (protocol, answer) = spdy_offer(&[], Kind::Attach).unwrap();
    assert_eq!(
        protocol,
        Protocol::SpdyCommand {
            form: Form::Text,
            resize: false
        }
    );
    assert!(!answer.contains_key(STREAM_PROTOCOL));
    let (protocol, _) = spdy_offer(&["portforward.k8s.io"], Kind::PortForward).unwrap();
    assert_eq!(protocol, Protocol::SpdyForward);
}

#[test]
fn spdy_names_what_it_would_take() {
    let refusal = spdy_offer(&["v9.channel.k8s.io"], Kind::Exec).unwrap_err();
    assert_eq!(refusal.status, StatusCode::FORBIDDEN);
    assert_eq!(
        refusal
            .headers
            .iter()
            .filter(|(name, _)| *name == ACCEPTED_PROTOCOLS)
            .count(),
        5
    );
}

#[test]
fn websocket_handshake() {
    let (protocol, answer) = websocket_offer("v6.channel.k8s.io, v5.channel.k8s.io", Kind::Exec).unwrap();
    assert_eq!(
        protocol,
        Protocol::Channels {
            base64: false,
            form: Form::Json,
            close_signal: true
        }
    );
    // The example of RFC 6455, section 1.3.
    assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(answer[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    let (protocol, answer) = websocket_offer("", Kind::Exec).unwrap();
    assert_eq!(
        protocol,
        Protocol::Channels {
            base64: false,
            form: Form::Text,
            close_signal: false
        }
    );
    assert!(!answer.contains_key(SEC_WEBSOCKET_PROTOCOL));
    let (protocol, _) = websocket_offer("SPDY/3.1+portforward.k8s.io", Kind::PortForward).unwrap();
    assert_eq!(protocol, Protocol::TunnelForward);
    assert_eq!(
        websocket_offer("chat", Kind::Exec).unwrap_err().status,
        StatusCode::FORBIDDEN
    );
}

#[test]
fn requests_that_ask_for_nothing_we_have() {
    let refused = |method: Method, pairs: &[(&'static str, &'static str)]| {
        negotiate(&method, &headers(pairs), Kind::Exec)
            .unwrap_err()
            .status
    };
    assert_eq!(refused(Method::GET, &[]), StatusCode::BAD_REQUEST);
    assert_eq!(refused(Method::DELETE, &[]), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        refused(Method::GET, &[("upgrade", "SPDY/3.1")]),
        StatusCode::BAD_REQUEST
    );
    let websocket = ("upgrade", "websocket");
    assert_eq!(
        refused(Method::POST, &[("connection", "upgrade"), websocket]),
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        refused(Method::GET, &[("connection", "upgrade"), websocket]),
        StatusCode::UPGRADE_REQUIRED
    );
    let version = ("sec-websocket-version", "13");
    assert_eq!(
        refused(Method::GET, &[("connection", "upgrade"), websocket, version]),
        StatusCode::BAD_REQUEST
    );
}

#[test]
fn ports_in_a_query() {
    assert_eq!(query_ports("port=80&x=1&port=443"), Some(vec![80, 443]));
    assert_eq!(query_ports("ports=80,81%2C82"), Some(vec![80, 81, 82]));
    assert_eq!(query_ports(""), Some(vec![]));
    for bad in ["port=0", "port=65536", "port=", "port=a", "port=80,,81"] {
        assert_eq!(query_ports(bad), None, "{bad}");
    }
}
