//! Evaluation: a monitor run over recorded data, and what came of it.
//!
//! A [`Run`] feeds a [`Monitor`](crate::Monitor), the same that scores live, and keeps every window and event. Given labels,
//! [`Figures`] says how good the events are. [`plot`] draws it all.

mod figures;
pub mod plot;
mod run;

pub use figures::{Counts, Detection, Figures, LabelledRow, Rule};
pub use run::{Episode, Evaluation, Run, ScoredWindow, Unscored};
