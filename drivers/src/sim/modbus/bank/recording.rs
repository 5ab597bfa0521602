//! A recording that a simulated device serves.

use tokio::time::Instant;
use tokio_modbus::ExceptionCode;

use super::super::replay::{Advance, Replay};

/// A recording that is being served.
pub(super) struct Playing {
    pub(super) replay: Replay,
    /// The next row, or with ticks the one last served.
    pub(super) row: usize,
    /// When the first read came.
    pub(super) begun: Option<Instant>,
    /// The cell at the highest address.
    pub(super) last_cell: usize,
}

impl Playing {
    /// The row that is served now; an exception past the last.
    pub(super) fn current_row(&mut self) -> Result<usize, ExceptionCode> {
        self.begun.get_or_insert_with(Instant::now);
        let row = self.peek_row();
        if row < self.replay.rows() {
            Ok(row)
        } else {
            Err(ExceptionCode::ServerDeviceFailure)
        }
    }

    pub(super) fn peek_row(&self) -> usize {
        match (self.replay.advance(), self.begun) {
            (Advance::Read, _) => self.row,
            (Advance::Tick { .. }, None) => 0,
            (Advance::Tick { interval }, Some(begun)) => {
                let ticks = begun.elapsed().as_nanos() / interval.as_nanos().max(1);
                usize::try_from(ticks).unwrap_or(usize::MAX)
            }
        }
    }
}
