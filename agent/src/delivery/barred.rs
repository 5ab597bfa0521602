//! Sources of which the broker takes nothing.
//!
//! A broker that may not be told of a source (a policy that leaves its topic out) hangs up on each of its
//! messages. Found one by one they would cost several connections each, for ever. After a few single records in a
//! row, with none acknowledged between them, the whole source is barred: its records are withheld untried, so that
//! the other sources go on. One record is tried now and then; once it is acknowledged, all that was withheld goes.

use std::collections::HashMap;
use std::time::Duration;

use millrace_tags::Moment;

use super::numbers::{Line, Numbers};

/// So many single records in a row: three that are next to each other may be bad by themselves, all is unlikely.
const REFUSED_IN_A_ROW: u32 = 3;

/// So many records in a row that are too large for any message, with none between them that is not. Several large ones
/// may lie side by side, and finding them costs no connection.
const TOO_LARGE_IN_A_ROW: u32 = 8;

/// The pause before the first trial; it doubles, since each trial costs everybody a connection.
const TRIAL_FIRST: Duration = Duration::from_secs(60);
/// The longest: a policy that somebody has mended shows within the hour.
const TRIAL_LONGEST: Duration = Duration::from_secs(3600);

/// What people read of a source that is barred.
pub(super) const TAKES_NOTHING: &str = "the broker closes the connection whenever it gets a message of this source, \
    as if its topic were not permitted; one is tried again now and then";

/// Halvings from a full parcel down to one record.
const HALVINGS: u32 = 11;

#[derive(Debug)]
enum State {
    /// So many single records were refused, and so many connections lost over it alone, in a row.
    Counting { refused: u32, lost: u32 },
    /// So many records in a row were too large for any message.
    Large(u32),
    /// Nothing is sent before `trial`.
    Barred {
        trial: Moment,
        pause: Duration,
        /// A trial is under way.
        tried: bool,
    },
}

/// What to do with records of a source.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Send them.
    Free,
    /// Send one record, alone.
    Trial,
    /// Withhold them.
    Barred,
}

/// What a refusal means for its source.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing: what was refused is set aside by itself.
    Single,
    /// The source is barred from now on: withhold what was lost.
    Begins,
    /// It stays barred: withhold it together with what was refused before.
    Lasts,
}

/// The sources of one uplink that are barred, or may become so.
#[derive(Debug, Default)]
pub(super) struct Barred(HashMap<Line, State>);

impl Barred {
    /// Sources that an earlier run found barred: one record of each is tried at once.
    pub(super) fn of_earlier(lines: Vec<Line>, now: Moment) -> Self {
        let state = |line| {
            let pause = TRIAL_FIRST;
            (
                line,
                State::Barred {
                    trial: now,
                    pause,
                    tried: false,
                },
            )
        };
        Self(lines.into_iter().map(state).collect())
    }

    /// The names of those that are barred, in order.
    pub(super) fn names(&self) -> Vec<String> {
        let barred = self
            .0
            .iter()
            .filter(|(_, s)| matches!(s, State::Barred { .. }));
        let mut names: Vec<String> = barred.map(|((_, name), _)| name.to_string()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// How records may go.
    pub(super) fn access(&self, numbers: &Numbers, now: Moment) -> Access {
        if self.0.is_empty() {
            return Access::Free;
        }
        match self.0.get(&numbers.line()) {
            Some(State::Barred { trial, .. }) if now >= *trial => Access::Trial,
            Some(State::Barred { .. }) => Access::Barred,
            Some(State::Counting { .. } | State::Large(_)) | None => Access::Free,
        }
    }

    /// Records went alone, and the broker closed the connection; it did so each time, where they are `refused`.
    /// Either is counted: where fresh records always come first, no single one is tried often enough.
    pub(super) fn lost(
        &mut self,
        numbers: &Numbers,
        is_refused: bool,
        poison_after: u32,
        now: Moment,
    ) -> Reach {
        let new = State::Counting {
            refused: 0,
            lost: 0,
        };
        self.fits(numbers);
        let state = self.0.entry(numbers.line()).or_insert(new);
        match state {
            State::Large(_) => Reach::Single,
            State::Counting { refused, lost } => {
                *lost += 1;
                *refused += u32::from(is_refused);
                let lost_max = HALVINGS + REFUSED_IN_A_ROW.saturating_mul(poison_after);
                if *refused < REFUSED_IN_A_ROW && *lost < lost_max {
                    return Reach::Single;
                }
                *state = State::Barred {
                    trial: now + TRIAL_FIRST,
                    pause: TRIAL_FIRST,
                    tried: false,
                };
                Reach::Begins
            }
            State::Barred { trial, pause, .. } => {
                *pause = (*pause * 2).min(TRIAL_LONGEST);
                *trial = now + *pause;
                Reach::Lasts
            }
        }
    }

    /// The broker says that it takes nothing of the source: that needs no counting.
    pub(super) fn denied(&mut self, numbers: &Numbers, now: Moment) -> Reach {
        let begins = State::Barred {
            trial: now + TRIAL_FIRST,
            pause: TRIAL_FIRST,
            tried: false,
        };
        match self.0.get_mut(&numbers.line()) {
            // What was under way when the first answer came.
            Some(State::Barred { trial, .. }) if now < *trial => Reach::Lasts,
            Some(State::Barred { trial, pause, .. }) => {
                *pause = (*pause * 2).min(TRIAL_LONGEST);
                *trial = now + *pause;
                Reach::Lasts
            }
            Some(State::Counting { .. } | State::Large(_)) | None => {
                self.0.insert(numbers.line(), begins);
                Reach::Begins
            }
        }
    }

    /// A record has no message that is small enough for this broker.
    pub(super) fn too_large(&mut self, numbers: &Numbers, now: Moment) -> Reach {
        let count = match self.0.get(&numbers.line()) {
            Some(State::Barred { .. }) => return self.denied(numbers, now),
            Some(State::Large(count)) => count + 1,
            Some(State::Counting { .. }) | None => 1,
        };
        if count >= TOO_LARGE_IN_A_ROW {
            return self.denied(numbers, now);
        }
        self.0.insert(numbers.line(), State::Large(count));
        Reach::Single
    }

    /// Records of the source are small enough.
    pub(super) fn fits(&mut self, numbers: &Numbers) {
        if self.0.is_empty() {
            return;
        }
        if let Some(State::Large(_)) = self.0.get(&numbers.line()) {
            self.0.remove(&numbers.line());
        }
    }

    /// A record of a barred source is about to be tried; the others stay barred meanwhile.
    pub(super) fn tries(&mut self, numbers: &Numbers, now: Moment) {
        if let Some(State::Barred {
            trial,
            pause,
            tried,
        }) = self.0.get_mut(&numbers.line())
        {
            *trial = now + *pause;
            *tried = true;
        }
    }

    /// Nothing proves that records were taken: their source is barred at once.
    pub(super) fn refuses(&mut self, numbers: &Numbers, now: Moment) -> Reach {
        match self.0.get_mut(&numbers.line()) {
            Some(State::Barred {
                trial,
                pause,
                tried,
            }) => {
                // What was under way beside the first, or beside the trial, says nothing new.
                if std::mem::take(tried) {
                    *pause = (*pause * 2).min(TRIAL_LONGEST);
                    *trial = now + *pause;
                }
                Reach::Lasts
            }
            Some(State::Counting { .. } | State::Large(_)) | None => {
                let state = State::Barred {
                    trial: now + TRIAL_FIRST,
                    pause: TRIAL_FIRST,
                    tried: false,
                };
                self.0.insert(numbers.line(), state);
                Reach::Begins
            }
        }
    }

    /// There is no connection: what was counted proves nothing.
    pub(super) fn no_connection(&mut self) {
        self.0
            .retain(|_, state| matches!(state, State::Barred { .. }));
    }

    /// Records were acknowledged; true where their source was barred until now.
    pub(super) fn acked(&mut self, numbers: &Numbers) -> bool {
        if self.0.is_empty() {
            return false;
        }
        matches!(self.0.remove(&numbers.line()), Some(State::Barred { .. }))
    }
}
