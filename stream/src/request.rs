//! From an HTTP request to a protocol: what the client offers, what we take, what we answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    ALLOW, CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode};

use crate::status::Form;

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const PORT_FORWARD: &str = "portforward.k8s.io";

/// RFC 6455, section 1.3.
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What is behind a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Exec,
    Attach,
    PortForward,
}

/// What both sides speak after the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// SPDY with the streams of a command.
    SpdyCommand { form: Form, resize: bool },
    /// SPDY with pairs of streams.
    SpdyForward,
    /// WebSocket channels of a command.
    Channels {
        base64: bool,
        form: Form,
        close_signal: bool,
    },
    /// WebSocket channels of ports.
    ChannelsForward { base64: bool },
    /// SPDY with pairs of streams, in WebSocket messages.
    TunnelForward,
}

/// The answer to a client that cannot be served.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) headers: Vec<(HeaderName, &'static str)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// Splits `/exec/TOKEN`.
pub(crate) fn route(path: &str) -> Option<(Kind, &str)> {
    let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
    let kind = match kind {
        "exec" => Kind::Exec,
        "attach" => Kind::Attach,
        "portforward" => Kind::PortForward,
        _ => return None,
    };
    Some((kind, token))
}

/// The protocol for a request and the headers of the answer 101.
pub(crate) fn negotiate(
    method: &Method,
    request: &HeaderMap,
    kind: Kind,
) -> Result<(Protocol, HeaderMap), Refusal> {
    if method != Method::GET && method != Method::POST {
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "want GET or POST");
        return Err(refusal.with(ALLOW, "GET, POST"));
    }
    let upgrades = values(request, &CONNECTION).any(|value| value.eq_ignore_ascii_case("upgrade"));
    if upgrades && values(request, &UPGRADE).any(|value| value.eq_ignore_ascii_case("websocket")) {
        return websocket(method, request, kind);
    }
    if upgrades && values(request, &UPGRADE).any(|value| value.eq_ignore_ascii_case(SPDY)) {
        return spdy(request, kind);
    }
    let refusal = Refusal::new(
        StatusCode::BAD_REQUEST,
        "want an upgrade to SPDY/3.1 or WebSocket",
    );
    Err(refusal.with(UPGRADE, SPDY).with(UPGRADE, "websocket"))
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let all = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

/// The first of the client's protocols that we know, with its canonical name.
fn choose<T: Copy>(
    request: &HeaderMap,
    name: &HeaderName,
    ours: &[(&'static str, T)],
) -> Option<(&'static str, T)> {
    values(request, name).find_map(|theirs| ours.iter().find(|(our, _)| *our == theirs).copied())
}

fn spdy(request: &HeaderMap, kind: Kind) -> Result<(Protocol, HeaderMap), Refusal> {
    let command = |form, resize| Protocol::SpdyCommand { form, resize };
    let ours: &[(&'static str, Protocol)] = match kind {
        Kind::PortForward => &[(PORT_FORWARD, Protocol::SpdyForward)],
        Kind::Exec | Kind::Attach => &[
            ("v5.channel.k8s.io", command(Form::Json, true)),
            ("v4.channel.k8s.io", command(Form::Json, true)),
            ("v3.channel.k8s.io", command(Form::Text, true)),
            ("v2.channel.k8s.io", command(Form::Text, false)),
            ("channel.k8s.io", command(Form::Text, false)),
        ],
    };
    let mut answer = HeaderMap::new();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static(SPDY));
    if values(request, &STREAM_PROTOCOL).next().is_none() {
        // The oldest clients do not negotiate: they speak the last, that is the first, of the list.
        let oldest = ours
            .last()
            .map_or(Protocol::SpdyForward, |(_, protocol)| *protocol);
        return Ok((oldest, answer));
    }
    if let Some((name, protocol)) = choose(request, &STREAM_PROTOCOL, ours) {
        answer.insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
        return Ok((protocol, answer));
    }
    let mut refusal = Refusal::new(StatusCode::FORBIDDEN, "no common stream protocol");
    for (name, _) in ours {
        refusal = refusal.with(ACCEPTED_PROTOCOLS, name);
    }
    Err(refusal)
}

fn websocket(method: &Method, request: &HeaderMap, kind: Kind) -> Result<(Protocol, HeaderMap), Refusal> {
    if method != Method::GET {
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a websocket begins with GET");
        return Err(refusal.with(ALLOW, "GET"));
    }
    if request
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let refusal = Refusal::new(StatusCode::UPGRADE_REQUIRED, "want websocket version 13");
        return Err(refusal.with(SEC_WEBSOCKET_VERSION, "13"));
    }
    let key = request
        .get(SEC_WEBSOCKET_KEY)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    if STANDARD.decode(key).map_or(true, |nonce| nonce.len() != 16) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "sec-websocket-key is not 16 bytes in base64",
        ));
    }
    let channels = |base64, form, close_signal| Protocol::Channels {
        base64,
        form,
        close_signal,
    };
    let ours: &[(&'static str, Protocol)] = match kind {
        Kind::PortForward => &[
            ("SPDY/3.1+portforward.k8s.io", Protocol::TunnelForward),
            ("v4.channel.k8s.io", Protocol::ChannelsForward { base64: false }),
            (
                "v4.base64.channel.k8s.io",
                Protocol::ChannelsForward { base64: true },
            ),
        ],
        Kind::Exec | Kind::Attach => &[
            ("v5.channel.k8s.io", channels(false, Form::Json, true)),
            ("v4.channel.k8s.io", channels(false, Form::Json, false)),
            ("v4.base64.channel.k8s.io", channels(true, Form::Json, false)),
            ("channel.k8s.io", channels(false, Form::Text, false)),
            ("base64.channel.k8s.io", channels(true, Form::Text, false)),
        ],
    };
    let mut answer = HeaderMap::new();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let mut accept = sha1_smol::Sha1::from(key);
    accept.update(WEBSOCKET_GUID.as_bytes());
    let accept = STANDARD.encode(accept.digest().bytes());
    let accept = HeaderValue::from_str(&accept)
        .map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "encode sec-websocket-accept"))?;
    answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if values(request, &SEC_WEBSOCKET_PROTOCOL).next().is_none() {
        let plain = match kind {
            Kind::PortForward => Protocol::ChannelsForward { base64: false },
            Kind::Exec | Kind::Attach => channels(false, Form::Text, false),
        };
        return Ok((plain, answer));
    }
    let Some((name, protocol)) = choose(request, &SEC_WEBSOCKET_PROTOCOL, ours) else {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "no common websocket subprotocol",
        ));
    };
    answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    Ok((protocol, answer))
}

/// The ports in a query string: `port=80&port=443`, `port=80,443`, or `ports=`.
pub(crate) fn query_ports(query: &str) -> Option<Vec<u16>> {
    let named = query.split('&').filter_map(|pair| pair.split_once('='));
    let lists = named
        .filter(|(name, _)| matches!(*name, "port" | "ports"))
        .map(|(_, value)| value);
    let numbers = lists.flat_map(|list| list.split(',').flat_map(|part| part.split("%2C")));
    numbers
        .map(|number| number.parse().ok().filter(|port| *port > 0))
        .collect()
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
