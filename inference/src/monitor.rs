//! Monitors: one configured model on its way from samples to scores and events.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millrace_tags::{Event, Moment, Sample, Share};

use crate::bundle::{Bundle, Grid};
use crate::column::Columns;
use crate::decision::{Decision, Judged};
use crate::grid::{Cell, InputLine};
use crate::learned::{Learned, RestoreError};
use crate::onnx::{Detector, ScoreError, Scored};
use crate::scorer::{ModelSpec, Scorer, WindowView};
use crate::threshold::{Limit, Progress};
use crate::window::Rows;

/// Rows of a grid in time that are made without a sample of any input. Only inputs that are not required, and detectors of
/// missing data, have so many.
const SILENT_ROWS_MAX: i64 = 10_000;

/// What a monitor says about one window.
#[derive(Debug)]
pub enum Output {
    /// The window has a score.
    Score {
        /// End of the window: the time of its newest row.
        at: Moment,
        /// The time of its oldest row.
        window_start: Moment,
        /// The score as the model gave it.
        score: f64,
        /// Score divided by threshold; `None` while there is no threshold yet.
        ratio: Option<f64>,
        /// Each input's share in the score, in the order of the inputs; empty where the model does not tell.
        share: Vec<(Arc<str>, f64)>,
        /// What else the model says, by the names of [`Scorer::value_names`]; `None` where that is not known.
        values: Vec<(Arc<str>, Option<f64>)>,
        /// Share of good cells in the window, 0 to 1.
        good: f64,
    },
    /// There is no score, and why.
    NotScored {
        /// Time of the newest row.
        at: Moment,
        /// Why not.
        reason: NotScored,
    },
    /// An anomaly begins, grows or ends.
    Event(Event),
}

/// Why a window has no score.
#[derive(Debug)]
pub enum NotScored {
    /// Rows are still missing since the start or the last gap.
    WarmingUp {
        /// Rows so far.
        rows: usize,
        /// Rows of a window.
        len: usize,
    },
    /// Too many values are stand-ins for values that are not good.
    TooFewGood {
        /// Share of good cells in the window.
        good: f64,
        /// The inputs that are to blame.
        roles: Vec<Arc<str>>,
    },
    /// The detector learns from this window what is normal.
    Training(Progress),
    /// Inputs were without a good value for longer than `max_gap`; the window starts anew.
    Gap {
        /// The inputs that are missing; all of them where there were no rows at all.
        roles: Vec<Arc<str>>,
    },
    /// Nothing of what the model predicts was measured in the newest row: there is no residual.
    Unmeasured {
        /// What was to be measured.
        roles: Vec<Arc<str>>,
    },
    /// The gate said no: whoever has the threads spares this window.
    Held,
    /// The model failed.
    Failed(ScoreError),
}

/// Asked before a window is scored, with the time of its newest row. Where it says `false`, the window stays
/// [`NotScored::Held`].
pub type Gate = Box<dyn Fn(Moment) -> bool + Send>;

impl fmt::Display for NotScored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotScored::WarmingUp { rows, len } => write!(f, "warming up, {rows} of {len} rows"),
            NotScored::TooFewGood { good, roles } => {
                let percent = good * 100.0;
                write!(
                    f,
                    "only {percent:.0} % good values, for want of {}",
                    roles.join(", ")
                )
            }
            NotScored::Gap { roles } => write!(f, "no good value of {}", roles.join(", ")),
            NotScored::Unmeasured { roles } => {
                let roles = roles.join(", ");
                write!(f, "no good value of {roles} to hold the forecast against")
            }
            NotScored::Held => f.write_str("not scored, to spare the processor"),
            NotScored::Training(Progress { windows, needed }) => {
                write!(f, "learning what is normal, {windows} of {needed} windows")
            }
            NotScored::Failed(error) => write!(f, "{error}"),
        }
    }
}

/// What a monitor still has to learn, or has learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Calibration {
    /// The detector learns what is normal: there are no scores yet.
    Training(Progress),
    /// There are scores, and the threshold is found from them: there are no events yet.
    Calibrating(Progress),
    /// The threshold is known.
    Done {
        /// The score that begins an event.
        threshold: f64,
    },
}

/// Makes windows of samples, scores them and decides on events. It has no clock: rows follow the
/// gateway time of samples, so that replayed samples get the same scores.
pub struct Monitor {
    scorer: Scorer,
    decision: Decision,
    limit: Limit,
    fingerprint: String,
    /// Windows that were learned from since the start, so that callers see when there is something to keep.
    learned_total: u64,
    scores_gaps: bool,
    grid: Grid,
    max_gap: Duration,
    min_good_share: f64,
    len: usize,
    stride: usize,
    /// The inputs.
    roles: Vec<Arc<str>>,
    lines: Vec<InputLine>,
    /// The columns that are made of them.
    columns: Columns,
    column_roles: Vec<Arc<str>>,
    rows: Rows,
    /// Rows since the last output, so that there is one output a stride.
    rows_since: usize,
    /// The next row of a grid in time; `None` until the first sample.
    next_row: Option<Moment>,
    /// No row lies before; it is only needed while there is no next one.
    rows_from: Moment,
    /// The last scan.
    last_scan: Option<Moment>,
    gate: Option<Gate>,
}

impl Monitor {
    /// A monitor for the model of a bundle and the detector that was built from it.
    pub fn new(bundle: &Bundle, detector: Detector) -> Self {
        Self::of(&ModelSpec::from(bundle), detector)
    }

    /// A monitor for any model and what scores its windows.
    pub fn of(spec: &ModelSpec, scorer: impl Into<Scorer>) -> Self {
        let window = &spec.window;
        let limit = Limit::new(spec.threshold);
        let line = |input| InputLine::new(input, window.max_gap);
        let mut lines: Vec<InputLine> = spec.inputs.iter().map(line).collect();
        let role = |role: &String| Arc::from(role.as_str());
        let rule = spec.decision.clone();
        Self {
            scorer: scorer.into(),
            decision: Decision::new(rule, limit.value(), &spec.version, &spec.sha256),
            limit,
            fingerprint: spec.fingerprint(),
            learned_total: 0,
            scores_gaps: spec.scores_gaps,
            grid: window.grid,
            max_gap: window.max_gap,
            min_good_share: window.min_good_share,
            len: window.len,
            stride: window.stride,
            roles: spec.inputs.iter().map(|input| role(&input.role)).collect(),
            columns: Columns::new(&spec.columns, &mut lines),
            column_roles: spec
                .columns
                .iter()
                .map(|column| role(&column.role))
                .collect(),
            lines,
            rows: Rows::new(window.len, spec.columns.len()),
            rows_since: 0,
            next_row: None,
            rows_from: Moment(i64::MIN),
            last_scan: None,
            gate: None,
        }
    }

    /// Has this gate asked before each window that can be scored.
    pub fn set_gate(&mut self, gate: Gate) {
        self.gate = Some(gate);
    }

    /// When the next row of a grid in time is due: before, [`Monitor::advance`] does nothing. `None` with
    /// `grid = "scan"`, and until a sample comes.
    pub fn next_row(&self) -> Option<Moment> {
        match self.grid {
            Grid::Scan => None,
            Grid::Every(grid) => self
                .next_row
                .or_else(|| self.row_of_first_sample(i64::try_from(grid.as_nanos()).ok()?)),
        }
    }

    /// What scores the windows.
    pub fn scorer(&self) -> &Scorer {
        &self.scorer
    }

    /// How far learning is.
    pub fn calibration(&self) -> Calibration {
        match (self.scorer.training(), self.limit.progress()) {
            (Some(progress), _) => Calibration::Training(progress),
            (None, Some(progress)) => Calibration::Calibrating(progress),
            (None, None) => Calibration::Done {
                threshold: self.limit.value().unwrap_or(f64::INFINITY),
            },
        }
    }

    /// Forgets everything that was learned, and learns anew from the next window on. An event that lasts ends at
    /// `at`. Nothing happens where there is nothing to learn.
    pub fn restart_calibration(&mut self, at: Moment) -> Vec<Output> {
        if !self.learns() {
            return Vec::new();
        }
        self.scorer.restart();
        self.limit.restart();
        self.learned_total += 1;
        let end = self.decision.close(at);
        self.decision.interrupt();
        self.decision.set_threshold(self.limit.value());
        end.map(Output::Event).into_iter().collect()
    }

    /// Whether there is something to learn for this model, or was.
    pub fn learns(&self) -> bool {
        self.scorer.learned().is_some() || self.limit.state().is_some()
    }

    /// Counts what was learned: where it has changed, [`Monitor::learned`] is worth keeping.
    pub fn learned_total(&self) -> u64 {
        self.learned_total
    }

    /// What was learned so far, to be kept over restarts; the format is that of the crate's `learned.rs`. `None` where there is
    /// nothing to learn.
    pub fn learned(&self) -> Option<Vec<u8>> {
        let learned = Learned {
            model: self.fingerprint.clone(),
            detector: self.scorer.learned().cloned(),
            limit: self.limit.state().cloned(),
        };
        self.learns().then(|| learned.to_bytes())
    }

    /// Goes on from what [`Monitor::learned`] gave; to be called before the first sample.
    ///
    /// # Errors
    /// See [`RestoreError`]: the monitor learns from the start then.
    pub fn restore(&mut self, kept: &[u8]) -> Result<(), RestoreError> {
        let kept = Learned::parse(kept)?;
        let same_kind = kept.detector.is_some() == self.scorer.learned().is_some()
            && kept.limit.is_some() == self.limit.state().is_some();
        if kept.model != self.fingerprint || !same_kind {
            return Err(RestoreError::Another);
        }
        let scorer = kept.detector.is_none_or(|kept| self.scorer.restore(kept));
        let limit = kept.limit.is_none_or(|kept| self.limit.restore(kept));
        if !(scorer && limit) {
            self.scorer.restart();
            self.limit.restart();
            return Err(RestoreError::Damaged(None));
        }
        self.decision.set_threshold(self.limit.value());
        Ok(())
    }

    /// Takes a sample of the tag that is bound to an input. Samples may come in any order; one that is
    /// older than the last row of its input is left out. An input that does not exist is ignored.
    pub fn feed(&mut self, input: usize, sample: &Sample) {
        if let Some(line) = self.lines.get_mut(input) {
            line.push(sample);
        }
    }

    /// A poll cycle has ended: with `grid = "scan"`, its samples are one row. Other grids do not care.
    pub fn end_scan(&mut self, at: Moment) -> Vec<Output> {
        let mut outputs = Vec::new();
        if self.grid != Grid::Scan {
            return outputs;
        }
        if self
            .last_scan
            .is_some_and(|last| at.since(last) > self.max_gap)
        {
            self.break_off(at, self.roles.clone(), &mut outputs);
        }
        self.last_scan = Some(at);
        self.row(at, &mut outputs);
        outputs
    }

    /// All samples up to `to` have been fed: the rows of a grid in time up to there are made. With
    /// `grid = "scan"` nothing happens.
    pub fn advance(&mut self, to: Moment) -> Vec<Output> {
        let mut outputs = Vec::new();
        let Grid::Every(grid) = self.grid else {
            return outputs;
        };
        let grid = i64::try_from(grid.as_nanos()).unwrap_or(i64::MAX);
        while let Some(at) = self.next_row.or_else(|| self.row_of_first_sample(grid)) {
            // Until `to` has come, an older sample may, and with it an earlier row.
            if at > to || !self.lines.iter().all(|line| line.is_ready(at, to)) {
                break;
            }
            let is_gap = self.row(at, &mut outputs) || self.is_silent(at, grid, &mut outputs);
            let next = Moment(at.0.saturating_add(grid));
            self.rows_from = next;
            // No row before the next sample can have more than one of a gap had.
            self.next_row = (!is_gap).then_some(next);
        }
        outputs
    }

    /// Ends the window where no input had a sample for so long that rows are not worth making: a clock that jumps ahead
    /// would make endless ones.
    fn is_silent(&mut self, at: Moment, grid: i64, outputs: &mut Vec<Output>) -> bool {
        let newest = self.lines.iter().filter_map(InputLine::newest).max();
        let is_silent =
            newest.is_some_and(|newest| at.0.saturating_sub(newest.0) / grid >= SILENT_ROWS_MAX);
        if is_silent {
            self.break_off(at, self.roles.clone(), outputs);
        }
        is_silent
    }

    /// The first row that the oldest waiting sample can be in.
    fn row_of_first_sample(&self, grid: i64) -> Option<Moment> {
        let first = self
            .lines
            .iter()
            .filter_map(InputLine::first_pending)
            .min()?;
        let past = first.0.rem_euclid(grid);
        let to_next = if past == 0 { 0 } else { grid - past };
        Some(Moment(first.0.saturating_add(to_next)).max(self.rows_from))
    }

    /// Makes one row, and what follows from it. Whether it is a gap.
    fn row(&mut self, at: Moment, outputs: &mut Vec<Output>) -> bool {
        let mut row = Vec::with_capacity(self.lines.len());
        let mut missing = Vec::new();
        for (line, role) in self.lines.iter_mut().zip(&self.roles) {
            line.take_until(at);
            match line.cell(at) {
                Some(cell) => row.push(cell),
                None if self.scores_gaps => row.push(Cell::NOTHING),
                None => missing.push(role.clone()),
            }
        }
        let row = match missing.is_empty() {
            true => self.columns.row(at, &row, &self.lines).map_err(|column| {
                let role = self.column_roles.get(column).cloned();
                role.into_iter().collect()
            }),
            false => Err(missing),
        };
        let row = match row {
            Ok(row) => row,
            Err(missing) => {
                self.break_off(at, missing, outputs);
                return true;
            }
        };
        let was_full = self.rows.is_full();
        self.rows.push(at, &row);
        self.rows_since += 1;
        let just_full = self.rows.is_full() && !was_full;
        if just_full || self.rows_since >= self.stride {
            self.rows_since = 0;
            self.window(at, outputs);
        }
        false
    }

    /// Starts the window anew.
    fn break_off(&mut self, at: Moment, roles: Vec<Arc<str>>, outputs: &mut Vec<Output>) {
        self.rows.clear();
        self.rows_since = 0;
        self.decision.interrupt();
        let reason = NotScored::Gap { roles };
        outputs.push(Output::NotScored { at, reason });
    }

    /// Scores the newest window, if there is one that can be scored.
    fn window(&mut self, at: Moment, outputs: &mut Vec<Output>) {
        match self.score() {
            Ok(scored) => self.tell(at, &scored, outputs),
            Err(reason) => outputs.push(Output::NotScored { at, reason }),
        }
    }

    fn score(&mut self) -> Result<Scored, NotScored> {
        if !self.rows.is_full() {
            return Err(NotScored::WarmingUp {
                rows: self.rows.count(),
                len: self.len,
            });
        }
        let good = self.rows.good_share();
        if good < self.min_good_share {
            let shares = self.column_roles.iter().zip(self.rows.good_shares());
            let to_blame = shares.filter(|(_, share)| *share < self.min_good_share);
            let roles = to_blame.map(|(role, _)| role.clone()).collect();
            return Err(NotScored::TooFewGood { good, roles });
        }
        let measured = self.rows.newest_good();
        let columns = self.scorer.measured_columns();
        if !columns.is_empty() && !columns.iter().any(|column| measured[*column]) {
            let roles = columns.iter().map(|column| &self.column_roles[*column]);
            let roles = roles.cloned().collect();
            return Err(NotScored::Unmeasured { roles });
        }
        if let (Some(gate), Some(at)) = (&self.gate, self.rows.end())
            && !gate(at)
        {
            return Err(NotScored::Held);
        }
        let shares: Vec<f64> = self.rows.good_shares().collect();
        let window = WindowView {
            values: &self.rows.values(),
            good: &shares,
            times: &self.rows.times(),
            measured: &measured,
        };
        if self.scorer.training().is_some() {
            self.learned_total += 1;
            self.scorer.learn(window).map_err(NotScored::Failed)?;
            if let Some(progress) = self.scorer.training() {
                return Err(NotScored::Training(progress));
            }
        }
        self.scorer.score(window).map_err(NotScored::Failed)
    }

    fn tell(&mut self, at: Moment, scored: &Scored, outputs: &mut Vec<Output>) {
        let good = self.rows.good_share();
        let shares = shares(&self.column_roles, scored.contribution.as_deref());
        outputs.push(Output::Score {
            at,
            window_start: self.rows.start().unwrap_or(at),
            score: scored.score,
            ratio: self.limit.value().map(|limit| scored.score / limit),
            share: shares.clone(),
            values: self.values(scored),
            good,
        });
        let shares: Vec<Share> = shares
            .into_iter()
            .map(|(role, share)| Share {
                role: role.to_string(),
                share,
            })
            .collect();
        let Some(score) = self.decision.smooth(scored.score) else {
            return;
        };
        if self.limit.progress().is_some() {
            self.learned_total += 1;
            if let Some(threshold) = self.limit.learn(score) {
                self.decision.set_threshold(Some(threshold));
            }
            return;
        }
        let judged = Judged {
            at,
            from: self.rows.start().unwrap_or(at),
            score,
            shares: &shares,
            good,
        };
        outputs.extend(self.decision.judge(judged).map(Output::Event));
    }

    fn values(&self, scored: &Scored) -> Vec<(Arc<str>, Option<f64>)> {
        let names = self.scorer.value_names().iter().cloned();
        names.zip(scored.values.iter().copied()).collect()
    }
}

/// Contributions as parts of one; nothing where there are none, or where all are zero.
fn shares(roles: &[Arc<str>], contribution: Option<&[f64]>) -> Vec<(Arc<str>, f64)> {
    let parts = contribution.unwrap_or_default();
    let sum: f64 = parts.iter().map(|part| part.abs()).sum();
    if sum <= 0.0 || !sum.is_finite() {
        return Vec::new();
    }
    let share = |(role, part): (&Arc<str>, &f64)| (role.clone(), part.abs() / sum);
    roles.iter().zip(parts).map(share).collect()
}
