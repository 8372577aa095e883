//! What keeps the layers of a container on disk.

use crate::store::Hold;

/// A use of an image's layers; see [`Images::lease`](crate::Images::lease). When the last one of a removed image
/// is dropped, its layers go, in the background: dropping does not block.
#[derive(Debug)]
pub struct Lease {
    _hold: Hold,
}

impl Lease {
    pub(crate) fn new(hold: Hold) -> Self {
        Self { _hold: hold }
    }
}
