//! Presets for kinds of cloud cores: topics, codec and commands.

pub mod generic;

pub use generic::{CommandError, EncodeError, Generic};
