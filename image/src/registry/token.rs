//! Token servers: the distribution project's `token` and `oauth` specifications.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use serde::Deserialize;

use super::auth::{basic, bearer};
use super::connect::Client;
use super::request::{self, Failure};
use crate::limits::{ATTEMPTS_MAX, TOKEN_SIZE_MAX};
use crate::{Credentials, Error, ErrorKind, Result};

/// How we are called where a server wants to know.
const CLIENT_ID: &str = "criquet";

/// What to ask a token server for.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) realm: &'a Uri,
    pub(super) service: Option<&'a str>,
    pub(super) scope: &'a str,
    pub(super) credentials: Option<&'a Credentials>,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Gets a token: with the identity token by OAuth2, else with the user's name and password, else anonymously.
///
/// # Errors
/// `Denied` when the server refuses, `Unavailable` when it does not answer in kind.
pub(super) async fn fetch(client: &Client, question: &Question<'_>) -> Result<HeaderValue> {
    let place = request::place(question.realm);
    let mut attempt = 1;
    let body = loop {
        let failure = match ask(client, question).await {
            Ok(body) => break body,
            Err(failure) => failure,
        };
        match failure.wait_before(attempt, ATTEMPTS_MAX) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(failure.into_error(&format!("get a token from {place}"))),
        }
        attempt += 1;
    };
    let odd = || {
        Error::new(
            ErrorKind::Unavailable,
            format!("{place} answered without a usable token"),
        )
    };
    // The text of a JSON error could quote the token, so it is not told.
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| odd())?;
    let token = answer
        .token
        .filter(|t| !t.is_empty())
        .or(answer.access_token)
        .filter(|t| !t.is_empty());
    token.as_deref().and_then(bearer).ok_or_else(odd)
}

async fn ask(client: &Client, question: &Question<'_>) -> std::result::Result<Bytes, Failure> {
    let request = build(question).map_err(Failure::invalid)?;
    let response = request::send(client, request).await?;
    if response.status().is_success() {
        return request::read(response, TOKEN_SIZE_MAX).await;
    }
    Err(Failure::status(response).await)
}

fn build(question: &Question<'_>) -> std::result::Result<Request<Full<Bytes>>, http::Error> {
    let mut fields = vec![("scope", question.scope)];
    fields.extend(question.service.map(|service| ("service", service)));
    let credentials = question.credentials;
    if let Some(refresh) = credentials
        .map(|c| c.identity_token.as_str())
        .filter(|t| !t.is_empty())
    {
        fields.extend([
            ("grant_type", "refresh_token"),
            ("client_id", CLIENT_ID),
            ("refresh_token", refresh),
        ]);
        return Request::builder()
            .method(Method::POST)
            .uri(question.realm.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(form(&fields).into()));
    }
    let authorization = credentials.and_then(basic);
    if let (Some(_), Some(user)) = (&authorization, credentials.map(|c| c.username.as_str())) {
        fields.push(("account", user));
    }
    let realm = question.realm.to_string();
    let separator = if question.realm.query().is_some() {
        '&'
    } else {
        '?'
    };
    let mut request = Request::builder().uri(format!("{realm}{separator}{}", form(&fields)));
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    request.body(Full::default())
}

/// `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        request::percent_encode(value, &mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(
            form(&[("scope", "repository:a/b:pull"), ("x", "a&b=c é")]),
            "scope=repository%3Aa%2Fb%3Apull&x=a%26b%3Dc%20%C3%A9"
        );
    }
}
