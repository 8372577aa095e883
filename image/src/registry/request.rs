//! One HTTP exchange: its time limits, and its failures in words without secrets.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Deserialize;

use super::connect::Client;
use crate::limits::{BACKOFF, DOCUMENT_TIMEOUT, ERROR_BODY_MAX, HEADER_TIMEOUT, RETRY_AFTER_MAX};
use crate::{Error, ErrorKind};

const AGENT: &str = concat!("criquet/", env!("CARGO_PKG_VERSION"));

/// Why an exchange failed, and whether another try may help.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    /// Ours, or an error code: nothing that a server could fill with secrets or control characters.
    text: String,
    retry: Retry,
    /// The host could not be reached, or was silent.
    pub(super) unreachable: bool,
}

#[derive(Debug, Clone, Copy)]
enum Retry {
    No,
    Backoff,
    After(Duration),
}

impl Failure {
    /// One that no retry mends.
    pub(super) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            retry: Retry::No,
            unreachable: false,
        }
    }

    pub(super) fn invalid(error: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }

    fn unreachable(text: String) -> Self {
        Self {
            kind: ErrorKind::Unavailable,
            text,
            retry: Retry::Backoff,
            unreachable: true,
        }
    }

    /// From an answer that is not a success.
    pub(super) async fn status(response: Response<Incoming>) -> Self {
        let status = response.status();
        let kind = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Denied,
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            _ => ErrorKind::Unavailable,
        };
        let passing = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        );
        let retry = if passing || status.is_server_error() {
            // A date instead of seconds is rare, and needs a right clock.
            let seconds = response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|v| v.to_str().ok()?.trim().parse().ok());
            seconds.map_or(Retry::Backoff, |s| Retry::After(Duration::from_secs(s)))
        } else {
            Retry::No
        };
        let mut text = status.to_string();
        if let Some(code) = error_code(response).await {
            text = format!("{text} ({code})");
        }
        Self {
            kind,
            text,
            retry,
            unreachable: false,
        }
    }

    /// How long to wait before the next try, after `attempt` (from 1) of `max`; none to give up.
    pub(super) fn wait_before(&self, attempt: u32, max: u32) -> Option<Duration> {
        if attempt >= max {
            return None;
        }
        match self.retry {
            Retry::No => None,
            Retry::Backoff => Some(BACKOFF * 2u32.saturating_pow(attempt - 1) + jitter()),
            Retry::After(wait) if wait <= RETRY_AFTER_MAX => Some(wait + jitter()),
            Retry::After(_) => None,
        }
    }

    /// `doing` says what failed, on what.
    pub(super) fn into_error(self, doing: &str) -> Error {
        Error::new(self.kind, format!("{doing}: {}", self.text))
    }
}

/// Up to a backoff, so that the pulls of many nodes do not come back as one.
fn jitter() -> Duration {
    let mut byte = [0];
    // Without entropy there is no jitter, which harms nobody.
    let random = getrandom::fill(&mut byte).map_or(0, |()| byte[0]);
    BACKOFF * u32::from(random) / 255
}

/// Sends a request and waits for the headers of the answer.
pub(super) async fn send(
    client: &Client,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Failure> {
    request
        .headers_mut()
        .entry(USER_AGENT)
        .or_insert(HeaderValue::from_static(AGENT));
    match tokio::time::timeout(HEADER_TIMEOUT, client.request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(Failure::unreachable(chain(&error))),
        Err(_) => Err(Failure::unreachable(format!(
            "no answer in {} s",
            HEADER_TIMEOUT.as_secs()
        ))),
    }
}

/// The whole body, which must not be longer than `max`.
pub(super) async fn read(response: Response<Incoming>, max: u64) -> Result<Bytes, Failure> {
    match tokio::time::timeout(DOCUMENT_TIMEOUT, collect(response.into_body(), max)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::unreachable(format!(
            "not whole after {} s",
            DOCUMENT_TIMEOUT.as_secs()
        ))),
    }
}

async fn collect(mut body: Incoming, max: u64) -> Result<Bytes, Failure> {
    let mut content = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Failure::unreachable(chain(&e)))?;
        let Ok(data) = frame.into_data() else { continue };
        if (content.len() + data.len()) as u64 > max {
            return Err(Failure::invalid(format!("the answer is longer than {max} bytes")));
        }
        content.extend_from_slice(&data);
    }
    Ok(content.freeze())
}

/// The code of the distribution specification's error object.
async fn error_code(response: Response<Incoming>) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        code: String,
    }
    let bytes = read(response, ERROR_BODY_MAX).await.ok()?;
    let body: Body = serde_json::from_slice(&bytes).ok()?;
    let code = body.errors.into_iter().next()?.code;
    // The specification's codes look like this; anything else could be an echo of what we sent.
    let plain = code.len() <= 40 && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    plain.then_some(code)
}

/// An error with all its causes; hyper tells the cause only there.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Scheme, host and port of `uri`: without the query, which may be a signature, and without userinfo.
pub(super) fn place(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |a| a.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{}://{host}", uri.scheme_str().unwrap_or("http"))
}

/// Encodes what is not unreserved in RFC 3986.
pub(super) fn percent_encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}
