//! The sled-backed store-and-forward log.

mod buffer;
mod catalogue;
mod chunk;
mod commit;
mod core;
mod epoch;
mod keeper;
mod ledger;
mod log;
mod manifest;
mod mark;
mod outbox;
mod owed;
mod ranges;
mod recovery;
mod retention;
mod scan;
mod settings;
mod shared;
mod state;
mod status;
mod store;
mod uplink;
mod verify;
mod wire;

pub use buffer::{Buffer, Registration, Ticket};
pub use catalogue::TagSpec;
pub use core::{CommitError, StoreFailure, VerifyError};
pub use ledger::{Ledger, Row, UplinkLedger};
pub use outbox::{Budget, Item, Offer, OfferId, Outbox, Start};
pub use recovery::Recovery;
pub use settings::{OpenError, Settings};
pub use status::{LogStatus, Queued, Status};
