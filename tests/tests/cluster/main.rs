//! A real Kubernetes on criquet, driven by kubectl: `hack/cluster test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::let_underscore_must_use)]

mod access;
mod disruption;
mod host;
mod kube;
mod lifecycle;
mod node;
mod security;
mod top;
mod volumes;
mod workloads;
