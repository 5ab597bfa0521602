//! `millrace buffer`: the store.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use millrace_tags::LogKind;

use super::Global;
use crate::stored::Outcome;

mod exact;
mod export;
mod peek;
mod poison;
mod purge;
mod replay;
mod status;
mod store;

pub(super) use exact::samples as exact_samples;
pub(super) use export::time;
use poison::PoisonCommand;

/// What can be done with the store.
#[derive(Debug, Subcommand)]
pub(crate) enum BufferCommand {
    /// Bytes, epochs, what is queued, what opening found
    Status,
    Peek(peek::PeekArgs),
    Export(export::ExportArgs),
    Replay(replay::ReplayArgs),
    Purge(purge::PurgeArgs),
    /// Messages that the core refuses
    #[command(subcommand)]
    Poison(PoisonCommand),
}

impl BufferCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            BufferCommand::Status => status::run(global),
            BufferCommand::Peek(args) => args.run(global),
            BufferCommand::Export(args) => args.run(global),
            BufferCommand::Replay(args) => args.run(global),
            BufferCommand::Purge(args) => args.run(global),
            BufferCommand::Poison(command) => command.run(global),
        }
    }
}

/// A log, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Log {
    /// Samples
    Data,
    /// Events
    Alarm,
}

impl From<Log> for LogKind {
    fn from(log: Log) -> Self {
        match log {
            Log::Data => LogKind::Data,
            Log::Alarm => LogKind::Alarm,
        }
    }
}

/// Says on stderr what is not in the output.
fn note_outcome(outcome: Outcome) {
    if outcome.undated > 0 {
        eprintln!(
            "note: {} records were left out, because the clock was not set when they were taken; without \
             --from and --to they are shown",
            outcome.undated
        );
    }
    if outcome.damaged_chunks > 0 {
        eprintln!(
            "warning: {} chunks are damaged and were left out",
            outcome.damaged_chunks
        );
    }
    if outcome.newer_epochs > 0 {
        eprintln!(
            "warning: {} epochs were left out, because a newer millrace wrote them; that version can read them",
            outcome.newer_epochs
        );
    }
}
