//! Columns of times. Tags that are read together share theirs, so a column is often just a reference.

use std::rc::Rc;

use crate::wire::{Cursor, Malformed, put_signed, put_varint};

/// How many earlier columns a column can refer to: the requests of one poll, in turn.
const RECENT_COLUMNS: usize = 8;

/// Writes columns of times: `0` and the times themselves, or the number of steps back to an equal one.
#[derive(Default)]
pub(crate) struct TimesWriter {
    recent: Vec<Vec<i64>>,
    newest: usize,
}

impl TimesWriter {
    pub(crate) fn clear(&mut self) {
        self.recent.clear();
        self.newest = 0;
    }

    pub(crate) fn put(&mut self, out: &mut Vec<u8>, times: &[i64]) {
        let len = self.recent.len();
        for back in 0..len {
            if self.recent[(self.newest + len - back) % len] == times {
                put_varint(out, back as u64 + 1);
                return;
            }
        }
        let base = self.recent.get(self.newest).and_then(|c| c.first());
        put_varint(out, 0);
        put_deltas(out, base.copied().unwrap_or(0), times);
        self.remember(times);
    }

    fn remember(&mut self, times: &[i64]) {
        if self.recent.len() < RECENT_COLUMNS {
            self.recent.push(times.to_vec());
            self.newest = self.recent.len() - 1;
        } else {
            self.newest = (self.newest + 1) % RECENT_COLUMNS;
            let column = &mut self.recent[self.newest];
            column.clear();
            column.extend_from_slice(times);
        }
    }
}

/// The first time against `base`, then the change of each difference.
fn put_deltas(out: &mut Vec<u8>, base: i64, times: &[i64]) {
    let (mut last, mut step) = (base, 0i64);
    for (i, &time) in times.iter().enumerate() {
        let delta = time.wrapping_sub(last);
        put_signed(out, delta.wrapping_sub(step));
        // The distance to the previous column says nothing about the distances in this one.
        step = if i == 0 { 0 } else { delta };
        last = time;
    }
}

/// Reads what [`TimesWriter`] wrote.
#[derive(Default)]
pub(crate) struct TimesReader {
    recent: Vec<Rc<Vec<i64>>>,
    newest: usize,
}

impl TimesReader {
    /// The next column, and whether it is the very one that an earlier call returned.
    pub(crate) fn next(
        &mut self,
        input: &mut Cursor<'_>,
        count: usize,
    ) -> Result<Rc<Vec<i64>>, Malformed> {
        let len = self.recent.len();
        let back = input.length(len)?;
        if back > 0 {
            let column = &self.recent[(self.newest + len - (back - 1)) % len];
            if column.len() != count {
                return Err(Malformed("a shared time column has another length"));
            }
            return Ok(column.clone());
        }
        let base = self
            .recent
            .get(self.newest)
            .and_then(|c| c.first())
            .copied();
        let (mut last, mut step) = (base.unwrap_or(0), 0i64);
        let mut times = Vec::with_capacity(count);
        for i in 0..count {
            let delta = input.signed()?.wrapping_add(step);
            last = last.wrapping_add(delta);
            step = if i == 0 { 0 } else { delta };
            times.push(last);
        }
        let column = Rc::new(times);
        if len < RECENT_COLUMNS {
            self.recent.push(column.clone());
            self.newest = len;
        } else {
            self.newest = (self.newest + 1) % RECENT_COLUMNS;
            self.recent[self.newest] = column.clone();
        }
        Ok(column)
    }
}
