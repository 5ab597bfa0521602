//! What a model begins with: the configured bundle where it is new, else what was active.

use std::path::{Path, PathBuf};

use millrace_inference::{Bundle, Trust};

use super::{Shelf, ShelfError, State, Terms, Unreadable, changing};
use crate::config::{self, ModelPolicy};
use crate::device::chain;

/// What a model begins with.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Bundles to try, in this order, each with its digest where it is one of the shelf.
    pub(crate) candidates: Vec<(PathBuf, Option<String>)>,
    /// Whose bundles may run: those of revoked keys may not.
    pub(crate) trust: Trust,
    /// What is not as it should be.
    pub(crate) trouble: Vec<String>,
}

impl Shelf {
    /// Puts a configured bundle that is new on the shelf and promotes it, and says what is to run. Takes its time where there
    /// is something new.
    pub(crate) fn settle(&self, model: &config::Model, policy: &ModelPolicy) -> Settled {
        let mut settled = Settled::default();
        match policy.trust(false) {
            Ok(trust) => settled.trust.revoked = trust.revoked,
            // Rather a model of a revoked key than none.
            Err(error) => settled.trouble.push(error),
        }
        let mut state = self.usable_state(&mut settled.trouble);
        match digest(&model.bundle) {
            Err(error) => settled.trouble.push(error),
            Ok(digest) if state.configured.as_ref() == Some(&digest) => {
                // It was examined under this digest.
                settled.candidates.push((model.bundle.clone(), None));
            }
            Ok(digest) => match self.take_configured(model, policy, &digest) {
                Ok(taken) => state = taken,
                Err(ShelfError::Refused(why)) => settled.trouble.push(format!(
                    "the configured bundle {} is not admitted: {why}",
                    model.bundle.display()
                )),
                Err(ShelfError::Disk(why)) => {
                    // What it is was found to be good.
                    settled.candidates.push((model.bundle.clone(), None));
                    settled.trouble.push(why);
                }
            },
        }
        let kept = state.active.iter().chain(state.before.iter().rev());
        let files = kept.map(|digest| (self.file(digest), Some(digest.clone())));
        settled.candidates = files.chain(settled.candidates).collect();
        settled
    }

    /// Whether the configured bundle is none that was taken, so that it must be examined.
    pub(crate) fn lacks(&self, model: &config::Model) -> bool {
        let taken = self.state().ok().and_then(|state| state.configured);
        digest(&model.bundle).is_ok_and(|digest| taken != Some(digest))
    }

    /// The state; one that cannot be read is set aside, and the shelf begins anew. That of a newer version stays where it is: the
    /// configured bundle runs without a shelf then.
    fn usable_state(&self, trouble: &mut Vec<String>) -> State {
        match self.read() {
            Ok(state) => state,
            // Said where the configured bundle is put on the shelf.
            Err(Unreadable::Newer(_)) => State::default(),
            Err(error) => {
                let path = self.directory.join(super::STATE_FILE);
                // Where this fails, too, writing fails and says so.
                let _ = std::fs::rename(&path, path.with_extension("json.unreadable"));
                trouble.push(format!("{error}; the shelf begins anew"));
                State::default()
            }
        }
    }

    /// Promotes the configured bundle, which the shelf may lack.
    fn take_configured(
        &self,
        model: &config::Model,
        policy: &ModelPolicy,
        digest: &str,
    ) -> Result<State, ShelfError> {
        let terms = Terms {
            policy: policy.clone(),
            signed: false,
            older: true,
            from: "configuration".to_owned(),
        };
        let known = match self.state() {
            Ok(known) => known,
            Err(error) => {
                // It cannot be kept, and is examined where it lies.
                super::examined(model, &model.bundle, &terms).map_err(ShelfError::Refused)?;
                return Err(ShelfError::Disk(error));
            }
        };
        if !known.versions.iter().any(|it| it.digest == digest) {
            let packed = pack(&model.bundle).map_err(ShelfError::Refused)?;
            match self.arriving().and_then(|file| {
                std::fs::write(file.path(), packed)
                    .map(|()| file)
                    .map_err(|error| format!("{}: {error}", self.directory.display()))
            }) {
                Ok(arrival) => drop(self.admit(model, arrival.path(), &terms)?),
                Err(error) => {
                    // It cannot be kept, and is examined where it lies.
                    super::examined(model, &model.bundle, &terms).map_err(ShelfError::Refused)?;
                    return Err(ShelfError::Disk(error));
                }
            }
        }
        let _guard = changing();
        let mut state = self.state().map_err(ShelfError::Disk)?;
        state.make_active(digest.to_owned());
        state.configured = Some(digest.to_owned());
        self.write(state.clone())?;
        Ok(state)
    }
}

fn digest(bundle: &Path) -> Result<String, String> {
    Bundle::digest_at(bundle).map_err(|error| chain(&error))
}

fn pack(bundle: &Path) -> Result<Vec<u8>, String> {
    Bundle::pack(bundle).map_err(|error| chain(&error))
}
