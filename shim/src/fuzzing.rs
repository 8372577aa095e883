//! What the daemon's bytes go through, for the fuzzers. Nothing here is for use.

use criquet_proto::shim::{Plan, Process, Request};
use prost::Message as _;

use crate::prepare;

/// A plan, a process or a request, and the checks that need no kernel.
pub fn plan(bytes: &[u8]) {
    drop(Request::decode(bytes));
    drop(Process::decode(bytes));
    let Ok(plan) = Plan::decode(bytes) else { return };
    assert_eq!(Plan::decode(plan.encode_to_vec().as_slice()).as_ref(), Ok(&plan));
    prepare::check(&plan);
}
