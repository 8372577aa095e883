//! The house's own rules, checked over the whole repository.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::let_underscore_must_use)]

mod cargo;
mod code;
mod direction;
mod documents;
mod licences;
mod schema;
mod scripts;
mod source;
