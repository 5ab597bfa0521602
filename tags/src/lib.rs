//! The vocabulary of Millrace: what crosses rooms.
//!
//! Plain data, one file a noun. No I/O, no async; the only thing that looks outside is
//! [`SystemClock`], because every room needs the same idea of time.
//!
//! A [`Sample`] is one observed value of a [tag](TagInfo). A *source* (a device or a model) has a line
//! of numbered samples; consecutive numbers of one source travel as a [`Parcel`]. An [`Event`] takes
//! the same way on the alarm log. Numbers that will never come are a [`Gap`].

mod command;
mod event;
mod gap;
mod parcel;
mod quality;
mod sample;
mod scaling;
mod tag;
mod time;
mod value;

pub use command::{Command, Proof, Reply, ReplyStatus, ReplyTo};
pub use event::{DeviceAlarm, Event, EventDetail, EventState, Share};
pub use gap::{DropReason, Gap, Hole};
pub use parcel::{Lane, LogKind, Parcel, Records, StreamId};
pub use quality::{Quality, Reason};
pub use sample::{Reading, Receipt, Sample};
pub use scaling::Scaling;
pub use tag::{SourceId, SourceKind, TagId, TagInfo, TagTable};
pub use time::{BootId, Clock, Moment, SystemClock, TestClock, Timebase, Timestamp};
pub use value::{Value, ValueType};
