//! What a container, an image, a registry, a request and a peer may not do. A file is a class of attack; a test is
//! named after the CVE, of whichever runtime, whose attack it repeats.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::let_underscore_must_use)]

mod canary;
mod confinement;
mod denial;
mod escape;
mod hostile;
mod identity;
mod image;
mod probe;
mod registry;
mod request;
mod socket;
mod start;
mod stub;
mod userns;
