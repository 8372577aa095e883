//! The streaming server as clients see it, with a backend that runs commands on this machine.
#![allow(clippy::unwrap_used)]

mod command;
mod fake;
mod forward;
mod listener;
mod spdy;
mod websocket;
