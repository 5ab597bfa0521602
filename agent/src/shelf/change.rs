//! Which version runs: promoting, going back, taking off the shelf.

use std::cmp::Ordering;

use super::order::order;
use super::{BEFORE_MAX, OnTrial, Shelf, ShelfError, State, changing};

/// To which version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// To this one.
    To {
        /// Its number or digest.
        version: String,
        /// Also where it is below the one that runs.
        older: bool,
    },
    /// To the one before.
    Back,
    /// The same runs, and this one scores beside it.
    Beside {
        /// Its number or digest.
        version: String,
    },
    /// The same runs, and none scores beside it.
    Alone,
}

/// Refuses a version below the one that runs.
pub(super) fn is_not_older(state: &State, version: &str, older: bool) -> Result<(), String> {
    match state.running() {
        Some(running) if !older && order(version, &running.version) == Ordering::Less => {
            Err(format!(
                "version {version} is below {}, which runs; --allow-downgrade takes it all the same, and [local] older_models = true lets commands do so",
                running.version
            ))
        }
        _ => Ok(()),
    }
}

impl Shelf {
    /// Makes another version the one that runs. Gives what was before, for [`Shelf::restore`].
    ///
    /// # Errors
    /// Where there is no such version, or it is not to be.
    pub(crate) fn step(&self, step: &Step) -> Result<State, String> {
        match step {
            Step::To { version, older } => self.promote(version, *older),
            Step::Back => self.go_back(),
            Step::Beside { version } => self.set_shadow(Some(version)),
            Step::Alone => self.set_shadow(None),
        }
    }

    fn promote(&self, version: &str, older: bool) -> Result<State, String> {
        let _guard = changing();
        let before = self.state()?;
        let version = before.find(version)?;
        is_not_older(&before, &version.version, older)?;
        let mut state = before.clone();
        state.make_active(version.digest.clone());
        state.trial = Some(OnTrial {
            digest: version.digest.clone(),
            starts: 0,
        });
        self.write(state).map_err(|error| error.to_string())?;
        Ok(before)
    }

    /// Back to what ran before. Once more goes back further, not forth.
    fn go_back(&self) -> Result<State, String> {
        let _guard = changing();
        let before = self.state()?;
        let mut state = before.clone();
        let Some(last) = state.before.pop() else {
            return Err("no other version ran before this one: there is none to go back to".into());
        };
        state.active = Some(last);
        state.trial = None;
        self.write(state).map_err(|error| error.to_string())?;
        Ok(before)
    }

    /// A version failed on trial: the one that goes on runs after a restart, too, unless something else was promoted meanwhile.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(crate) fn take_back(
        &self,
        failed: Option<&str>,
        goes_on: Option<&str>,
    ) -> Result<(), String> {
        let _guard = changing();
        let mut state = self.state()?;
        if state.active.as_deref() != failed {
            return Ok(());
        }
        state.active = goes_on.map(str::to_owned);
        state.trial = None;
        state.before.retain(|it| Some(it.as_str()) != goes_on);
        self.write(state).map_err(|error| error.to_string())
    }

    /// As it was before a change that did not work. What was installed meanwhile stays.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(crate) fn restore(&self, before: State) -> Result<(), String> {
        let _guard = changing();
        let mut state = self.state()?;
        state.active = before.active;
        state.before = before.before;
        state.shadow = before.shadow;
        state.trial = before.trial;
        self.write(state).map_err(|error| error.to_string())
    }

    /// Has a version score beside the one that runs, or none.
    fn set_shadow(&self, version: Option<&str>) -> Result<State, String> {
        let _guard = changing();
        let before = self.state()?;
        let mut state = before.clone();
        state.shadow = match version {
            None => None,
            Some(version) => {
                let found = before.find(version)?;
                if before.active.as_ref() == Some(&found.digest) {
                    return Err(format!("version {} is the one that runs", found.version));
                }
                Some(found.digest.clone())
            }
        };
        self.write(state).map_err(|error| error.to_string())?;
        Ok(before)
    }

    /// The program has started within the trial of the active version: gives the version to go back to and the number of
    /// such starts. `None` where there is no trial, or nothing to go back to.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(crate) fn start_in_trial(&self) -> Result<Option<(String, u32)>, String> {
        let _guard = changing();
        let mut state = self.state()?;
        let (Some(trial), Some(back)) = (&mut state.trial, state.before.last()) else {
            return Ok(None);
        };
        if state.active.as_ref() != Some(&trial.digest) {
            return Ok(None);
        }
        trial.starts += 1;
        let found = (back.clone(), trial.starts);
        self.write(state).map_err(|error| error.to_string())?;
        Ok(Some(found))
    }

    /// The version has proved itself.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(crate) fn end_trial(&self, proved: Option<&str>) -> Result<(), String> {
        let _guard = changing();
        let mut state = self.state()?;
        if state.trial.as_ref().map(|trial| trial.digest.as_str()) != proved {
            return Ok(());
        }
        state.trial = None;
        self.write(state).map_err(|error| error.to_string())
    }

    /// Takes a version off the shelf.
    ///
    /// # Errors
    /// Where it runs, or may be gone back to next.
    pub(crate) fn remove(&self, version: &str) -> Result<String, String> {
        let _guard = changing();
        let mut state = self.state()?;
        let found = state.find(version)?.clone();
        let digest = Some(&found.digest);
        let why = match () {
            () if state.active.as_ref() == digest => "it runs",
            () if state.shadow.as_ref() == digest => "it scores beside the one that runs",
            () if state.before.last() == digest => "it is the one to go back to",
            () => {
                state.versions.retain(|it| it.digest != found.digest);
                state.before.retain(|it| *it != found.digest);
                self.write(state).map_err(|error| error.to_string())?;
                // Nobody knows it any more; what stays is only room.
                let _ = std::fs::remove_file(self.file(&found.digest));
                return Ok(found.version);
            }
        };
        Err(format!("version {} is not removed: {why}", found.version))
    }
}

impl State {
    /// Makes it the one that runs; the one before can be gone back to.
    pub(super) fn make_active(&mut self, digest: String) {
        if self.active.as_ref() == Some(&digest) {
            return;
        }
        self.before.retain(|it| *it != digest);
        self.before.extend(self.active.replace(digest));
        let too_many = self.before.len().saturating_sub(BEFORE_MAX);
        self.before.drain(..too_many);
        if self.shadow == self.active {
            self.shadow = None;
        }
    }
}

impl From<ShelfError> for String {
    fn from(error: ShelfError) -> Self {
        error.to_string()
    }
}
