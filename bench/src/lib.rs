//! Load generators: the figures of the design, measured on the program as a real process.
//!
//! [`Load`] is one of the named loads; [`measure`] runs it: simulated Modbus TCP devices in this process,
//! the agent as a child with its durable buffer on, mosquitto as another, a subscriber here that counts.

mod load;
mod measure;
mod usage;

pub use load::Load;
pub use measure::{Figures, measure};
pub use usage::Usage;
