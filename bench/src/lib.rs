//! Load generators: the figures of the design, measured.
//!
//! The buffer by itself: [`Rig`] feeds a store with [`Signals`] and drains it, [`Segment`] is the plain
//! file beside it. The whole program, with the feature `agent`: `Load` is one of the named loads,
//! `measure` runs it with simulated Modbus TCP devices in this process, the agent as a child with its
//! durable buffer on, mosquitto as another, and a subscriber here that counts.

mod backlog;
#[cfg(feature = "agent")]
mod beside;
#[cfg(feature = "inference")]
pub mod inference;
mod life;
#[cfg(feature = "agent")]
mod load;
#[cfg(feature = "agent")]
mod measure;
#[cfg(feature = "agent")]
pub mod modbus;
#[cfg(feature = "agent")]
pub mod opcua;
mod outage;
mod rig;
mod row;
mod segment;
mod signals;
#[cfg(feature = "uplink")]
pub mod uplink;
mod usage;

pub use backlog::{Backlog, Part};
#[cfg(feature = "agent")]
pub use beside::{Beside, beside};
pub use life::Life;
#[cfg(feature = "agent")]
pub use load::Load;
#[cfg(feature = "agent")]
pub use measure::{Figures, measure};
pub use outage::Outage;
pub use rig::Rig;
pub use row::{Row, Table, Target};
pub use segment::{Segment, raw_records};
pub use signals::{Signals, TAGS};
pub use usage::{Usage, cpu_time};
