//! The only code that names CRI types.
pub mod status;
