//! A blob as a stream that survives broken connections.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::endpoint::{Query, attempts};
use super::request::chain;
use super::{Need, Source};
use crate::digest::Digest;
use crate::limits::{ATTEMPTS_MAX, BACKOFF, BLOB_RESUMES_MAX};
use crate::manifest::Descriptor;
use crate::{Error, ErrorKind, Result};

/// The bytes of a blob from some offset on, exactly as many as its descriptor says. Dropping it ends the transfer.
#[derive(Debug)]
pub struct BlobStream {
    source: Arc<Source>,
    digest: Digest,
    size: u64,
    /// Of the next byte to give.
    position: u64,
    /// Bytes that come before it, from a server that knows no ranges.
    skip: u64,
    body: Option<Incoming>,
    /// Connections used so far.
    opened: u32,
    /// Connections since the last byte.
    fruitless: u32,
}

impl BlobStream {
    pub(super) async fn open(source: Arc<Source>, descriptor: &Descriptor, offset: u64) -> Result<Self> {
        let (digest, size) = (descriptor.digest.clone(), descriptor.size);
        if offset > size {
            let text = format!("blob {digest} has {size} bytes, so there is nothing at {offset}");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let mut stream = Self {
            source,
            digest,
            size,
            position: offset,
            skip: 0,
            body: None,
            opened: 0,
            fruitless: 0,
        };
        if offset < size {
            stream.connect().await?;
        }
        Ok(stream)
    }

    /// Where the next piece starts in the blob.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next piece; none at the end. Safe to cancel.
    ///
    /// # Errors
    /// `Unavailable` when the registry stalls or breaks off and no further try helps; `Corrupt` when it sends more
    /// than it should.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(body) = &mut self.body else {
                if self.position == self.size {
                    return Ok(None);
                }
                self.reconnect().await?;
                continue;
            };
            let why = match tokio::time::timeout(self.source.stall, body.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => match self.take(data)? {
                        Some(data) => return Ok(Some(data)),
                        None => continue,
                    },
                    Err(_trailers) => continue,
                },
                Ok(None) => format!("it ends at byte {} of {}", self.position, self.size),
                Ok(Some(Err(error))) => chain(&error),
                Err(_) => format!("no byte in {} s", self.source.stall.as_secs_f32()),
            };
            self.body = None;
            if self.position < self.size {
                self.give_up(&why)?;
                tracing::debug!(digest = %self.digest, position = self.position, why, "blob is resumed");
            }
        }
    }

    /// The blob as a stream of its pieces.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = Result<Bytes>> + Send {
        futures_util::stream::try_unfold(self, |mut blob| async move {
            Ok(blob.chunk().await?.map(|piece| (piece, blob)))
        })
    }

    /// The rest of a small blob.
    pub(super) async fn collect(mut self) -> Result<Bytes> {
        let mut content = bytes::BytesMut::new();
        while let Some(piece) = self.chunk().await? {
            content.extend_from_slice(&piece);
        }
        Ok(content.freeze())
    }

    fn take(&mut self, mut data: Bytes) -> Result<Option<Bytes>> {
        let skipped = self.skip.min(data.len() as u64);
        self.skip -= skipped;
        // `skipped` is at most the length of `data`.
        drop(data.split_to(usize::try_from(skipped).unwrap_or(data.len())));
        if data.is_empty() {
            return Ok(None);
        }
        if data.len() as u64 > self.size - self.position {
            let text = format!("blob {} is longer than its {} bytes", self.digest, self.size);
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        self.position += data.len() as u64;
        self.fruitless = 0;
        Ok(Some(data))
    }

    /// # Errors
    /// `Unavailable` when enough was tried.
    fn give_up(&self, why: &str) -> Result<()> {
        if self.fruitless < ATTEMPTS_MAX && self.opened < BLOB_RESUMES_MAX {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("fetch blob {}: {why}", self.digest),
        ))
    }

    async fn reconnect(&mut self) -> Result<()> {
        if self.fruitless > 0 {
            tokio::time::sleep(BACKOFF * self.fruitless).await;
        }
        self.connect().await
    }

    /// Asks the hosts in turn for the rest.
    async fn connect(&mut self) -> Result<()> {
        self.opened += 1;
        self.fruitless += 1;
        let path = format!("blobs/{}", self.digest);
        let query = Query {
            path: &path,
            accept: None,
            offset: self.position,
        };
        let candidates = self.source.candidates(Need::Pull)?;
        let mut errors = Vec::new();
        for (at, endpoint) in candidates.iter().enumerate() {
            let found = match endpoint.get(&query, attempts(at + 1 == candidates.len())).await {
                Ok(response) => self
                    .accept(response)
                    .map_err(|(kind, text)| Error::new(kind, format!("{}: {text}", endpoint.doing(&query)))),
                Err(error) => Err(error),
            };
            match found {
                Ok(()) => return Ok(()),
                Err(error) => errors.push(error),
            }
        }
        Err(super::all_failed(errors))
    }

    /// Checks what the headers say of the length.
    fn accept(&mut self, response: Response<Incoming>) -> std::result::Result<(), (ErrorKind, String)> {
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let headers = response.headers();
        let odd = |text: &str| (ErrorKind::Corrupt, text.to_owned());
        let start = if partial {
            let (start, total) =
                content_range(headers).ok_or_else(|| odd("it answers with no known range"))?;
            if start != self.position || total.is_some_and(|total| total != self.size) {
                return Err(odd("it answers with another range than was asked for"));
            }
            start
        } else {
            0
        };
        let length = headers
            .get(CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if let Some(length) = length
            && start.checked_add(length) != Some(self.size)
        {
            // A short range is legal; the rest is asked for when it ends.
            if !partial || start.saturating_add(length) > self.size {
                let text = format!(
                    "it has {length} bytes from {start} on instead of {} in all",
                    self.size
                );
                return Err((ErrorKind::Corrupt, text));
            }
        }
        self.skip = self.position - start;
        self.body = Some(response.into_body());
        Ok(())
    }
}

/// `bytes 5-9/10` or `bytes 5-9/*`: the start and the total.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    match total.trim() {
        "*" => Some((start, None)),
        total => Some((start, Some(total.parse().ok()?))),
    }
}
