//! First contact: asks the core for an enrolment, keeps it, has it applied, and looks after it.
//!
//! Two phases. A new enrolment is kept beside the one before and put into force on trial (`store.rs`); the
//! configuration is applied, which begins this task anew. Once an uplink has connected with it, the core is told,
//! and only then the enrolment before is forgotten and a one-time key destroyed. One that does not connect gives way
//! to the one before. While a configuration is on trial (`crate::apply`) no enrolment is put into force, and the other way
//! round: each could take back what the other has put there. After that the task waits: for the certificate to be renewed, for refusals that last, for a
//! core that cannot be reached, or for somebody's wish.

mod ask;
mod claims;
mod desk;
mod enrolment;
mod key;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use millrace_uplink::bootstrap::{
    Cadence, Contact, Generation, Life, Outcome, Provider, first_draw,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::{self, BootstrapSettingsError};
use crate::device::chain;
use crate::report::BootstrapStatus;

use ask::Brought;
pub(crate) use claims::{Lying, first_contact, lying};
pub(crate) use desk::{Desk, Turn, Wish};
use store::{Phase, State, Store, StoreError};
use watch::{Reason, Watch};
pub(crate) use watch::{Refusals, Seen, SeenUplink};

/// How often the uplinks are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long a new enrolment may take to connect before the one before is put into force again.
const TRIAL_LIMIT: Duration = Duration::from_secs(600);

/// A renewal that fails is tried again after this, or later where the core says so.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// Makes the provider of a configuration.
pub(crate) type MakeProvider = fn(
    &config::Bootstrap,
    Contact,
    Option<Generation>,
) -> Result<Box<dyn Provider>, BootstrapSettingsError>;

/// The task.
pub(crate) struct Bootstrap {
    /// Whom to ask, and as whom.
    pub(crate) settings: config::Bootstrap,
    /// The gateway's own id.
    pub(crate) gateway: String,
    /// Where enrolments are kept.
    pub(crate) data_dir: PathBuf,
    /// The local configuration that the core's must go together with.
    pub(crate) config: Option<PathBuf>,
    /// What it says, and what it is asked.
    pub(crate) desk: Arc<Desk>,
    /// Has the configuration on disk applied.
    pub(crate) changed: mpsc::Sender<()>,
    /// The uplinks as they are.
    pub(crate) look: Box<dyn Fn() -> Seen + Send + Sync>,
    pub(crate) make_provider: MakeProvider,
}

/// How a step of the task ended.
enum Next {
    /// The configuration on disk was changed: it is to be applied, and this task begins anew.
    Apply,
    /// There is something else to do.
    GoOn,
}

impl Bootstrap {
    /// Runs until the configuration on disk was changed.
    pub(crate) async fn run(self) {
        let store = Store::new(&self.data_dir);
        let mut wished = false;
        loop {
            let outcome = tokio::select! {
                outcome = self.live(&store, wished) => outcome,
                wish = self.desk.wished() => match wish {
                    Wish::Run => {
                        wished = true;
                        continue;
                    }
                    Wish::Reset => store.reset(),
                },
            };
            match outcome {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(error = %chain(&error), "the bootstrap cannot go on");
                    self.say("denied", Some(chain(&error)));
                    // Nothing but a wish, a new configuration or a restart changes that.
                    wished = self.desk.wished().await == Wish::Run;
                    if !wished && store.reset().is_ok() {
                        break;
                    }
                }
            }
        }
        let _ = self.changed.send(()).await;
    }

    /// Goes from step to step until the configuration is to be applied.
    async fn live(&self, store: &Store, mut wished: bool) -> Result<(), StoreError> {
        let mut state = store.state()?;
        self.look_at_token(&state);
        if store.recover(&mut state)? {
            return Ok(());
        }
        loop {
            let next = match (state.active, state.phase) {
                (None, _) => self.first(store, &mut state, wished).await,
                (Some(_), Phase::Trial) => self.on_trial(store, &mut state, wished).await?,
                (Some(_), Phase::Confirming) => self.confirm(store, &mut state).await?,
                (Some(_), Phase::Settled) => self.settled(store, &mut state, wished).await,
            };
            wished = false;
            if matches!(next, Next::Apply) {
                return Ok(());
            }
        }
    }

    /// Asks until there is an enrolment.
    async fn first(&self, store: &Store, state: &mut State, wished: bool) -> Next {
        if !wished {
            self.say(
                "pending",
                Some("asking the core for the first time".to_owned()),
            );
            let id = self.settings.contact(&store.kept_key(), None);
            let id = id.map_or_else(|_| self.gateway.clone(), |contact| contact.external_id);
            tokio::time::sleep(self.settings.spread.mul_f64(first_draw(&id))).await;
        }
        let mut cadence = Cadence::new();
        loop {
            let error = match self.ask(store, state, Reason::First).await {
                Ok(_) => break,
                Err(error) => error,
            };
            let outcome = error.outcome();
            let told = self.told(&error);
            tracing::warn!(error = %told, "no enrolment yet");
            self.say(name(outcome), Some(self.with_way(outcome, told)));
            let pause = cadence.after(outcome, error.retry_after(), fastrand::f64());
            tokio::time::sleep(pause.unwrap_or(LOOK)).await;
        }
        tracing::info!("enrolled, on trial until an uplink has connected");
        self.say("trial", Some("applying the enrolment".to_owned()));
        Next::Apply
    }

    fn watch(&self, store: &Store, state: &State) -> Watch {
        let layer = store.layer(state).unwrap_or_default();
        Watch::new(enrolment::uplink_names(&layer))
    }

    /// Waits for the first connection of a new enrolment.
    async fn on_trial(
        &self,
        store: &Store,
        state: &mut State,
        wished: bool,
    ) -> Result<Next, StoreError> {
        let mut watch = self.watch(store, state);
        let began = Instant::now();
        self.say(
            "trial",
            Some("waiting for the first connection of the new enrolment".to_owned()),
        );
        let mut not_before = began;
        let claimed = self.is_claimed_anew(state).then_some(Reason::Claimed);
        let mut reason = wished.then_some(Reason::Wished).or(claimed);
        loop {
            let seen = (self.look)();
            if watch.is_proven(&seen) {
                state.phase = Phase::Confirming;
                store.save(state)?;
                return Ok(Next::GoOn);
            }
            if state.previous.is_some() && began.elapsed() >= TRIAL_LIMIT {
                tracing::error!(
                    "the new enrolment did not connect: the one before is in force again"
                );
                store.go_back(state)?;
                // What came now does not work: another one is worth asking for only later.
                let due = renewal(&store.files(state)?);
                let later = unix(SystemTime::now() + AGAIN_AFTER);
                state.renew_at = due.map(|due| due.max(later));
                store.save(state)?;
                return Ok(Next::Apply);
            }
            reason = reason.or_else(|| watch.trouble(&seen, Instant::now()));
            // While there is one to go back to, that is what happens.
            if let Some(why) = reason.take()
                && (why.is_asked_for() || state.previous.is_none() && Instant::now() >= not_before)
            {
                let (next, pause) = self.ask_again(store, state, why, "trial").await;
                if matches!(next, Next::Apply) {
                    return Ok(Next::Apply);
                }
                not_before = Instant::now() + pause;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Tells the core that the enrolment has proved itself, then destroys or moves the key.
    async fn confirm(&self, store: &Store, state: &mut State) -> Result<Next, StoreError> {
        let mut cadence = Cadence::new();
        while let Some(receipt) = state.receipt.clone() {
            let error = match self.tell(store, state, &receipt).await {
                Ok(()) => break,
                Err(error) => error,
            };
            let outcome = error.outcome();
            tracing::warn!(error = %chain(&error), "the enrolment is not confirmed yet");
            self.say(
                "trial",
                Some(format!("connected, but not confirmed: {}", chain(&error))),
            );
            if outcome == Outcome::Denied {
                // It works, and the core does not want to hear of it.
                break;
            }
            let pause = cadence.after(outcome, error.retry_after(), fastrand::f64());
            tokio::time::sleep(pause.unwrap_or(LOOK)).await;
        }
        state.receipt = None;
        let spent = self
            .settings
            .one_time
            .then(|| self.key(store, state))
            .flatten();
        state.spent = spent
            .map(|key| key::fingerprint(&key))
            .or(state.spent.take());
        state.phase = Phase::Settled;
        store.save(state)?;
        store.forget_attempt();
        store.forget_previous(state)?;
        self.put_key_away(store);
        tracing::info!("the enrolment has proved itself");
        Ok(Next::GoOn)
    }

    /// Waits for a reason to ask again, and asks.
    async fn settled(&self, store: &Store, state: &mut State, wished: bool) -> Next {
        let mut watch = self.watch(store, state);
        let mut not_before = Instant::now();
        let claimed = self.is_claimed_anew(state).then_some(Reason::Claimed);
        let mut reason = wished.then_some(Reason::Wished).or(claimed);
        self.say("ready", renewal_sentence(state));
        loop {
            let due = state.renew_at().is_some_and(|due| SystemTime::now() >= due);
            reason = reason
                .or(due.then_some(Reason::Renewal))
                .or_else(|| watch.trouble(&(self.look)(), Instant::now()));
            if let Some(why) = reason.take()
                && (why.is_asked_for() || Instant::now() >= not_before)
            {
                let (next, pause) = self.ask_again(store, state, why, "ready").await;
                if matches!(next, Next::Apply) {
                    return Next::Apply;
                }
                not_before = Instant::now() + pause;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks once more. A failure leaves everything as it is, for this long.
    async fn ask_again(
        &self,
        store: &Store,
        state: &mut State,
        why: Reason,
        shown: &str,
    ) -> (Next, Duration) {
        tracing::info!(
            why = why.sentence(),
            "asking the core for an enrolment again"
        );
        let serves = (why == Reason::Wished).then(|| self.desk.serves_wish());
        let asked = self.ask(store, state, why).await;
        if let Some(serves) = serves {
            serves.served();
        }
        match asked {
            Ok(Brought::New) => (Next::Apply, Duration::ZERO),
            Ok(Brought::Same) => {
                if state.phase == Phase::Settled && self.settings.brought.is_some() {
                    self.put_key_away(store);
                }
                self.say(
                    shown,
                    Some(format!(
                        "{}; the core gives the same enrolment",
                        why.sentence()
                    )),
                );
                (Next::GoOn, AGAIN_AFTER)
            }
            Err(error) => {
                let told = self.told(&error);
                tracing::warn!(error = %told, "no new enrolment");
                self.say(
                    shown,
                    Some(format!(
                        "{}, and there is no new enrolment: {told}",
                        why.sentence()
                    )),
                );
                let pause = error.retry_after().unwrap_or_default().max(AGAIN_AFTER);
                (Next::GoOn, pause.mul_f64(1.0 + 0.2 * fastrand::f64()))
            }
        }
    }

    /// A one-time key is destroyed, a static one moves into the data directory.
    fn put_key_away(&self, store: &Store) {
        if let Some(claim) = &self.settings.brought {
            let key = self.settings.external_key.as_ref();
            let key = key.filter(|_| !self.settings.one_time);
            if let Err(error) = key::put_claim_away(claim, key, store) {
                tracing::warn!(error = %chain(&error), "the claim was not put away");
            }
            return;
        }
        let source = self
            .settings
            .claim
            .as_ref()
            .or(self.settings.external_key.as_ref());
        let Some(source) = source else { return };
        if let Err(error) = key::put_away(source, self.settings.one_time, store) {
            tracing::warn!(error = %chain(&error), "the external key was not put away");
        }
    }

    fn say(&self, state: &str, message: Option<String>) {
        self.desk.say(Some(BootstrapStatus {
            provider: self.settings.provider.to_owned(),
            state: state.to_owned(),
            message,
            claim: None,
        }));
    }
}

/// A configuration that the core sends by command: its uplinks get the login of the enrolment in force, where there is
/// one and they name none.
pub(crate) fn with_login(layer: &str, data_dir: &Path) -> String {
    let store = Store::new(data_dir);
    match store.state().and_then(|state| store.files(&state)) {
        Ok(files) if !files.is_empty() => enrolment::with_login(layer, &files, &store.current()),
        _ => layer.to_owned(),
    }
}

/// Whether an enrolment is on trial with one to go back to.
pub(crate) fn may_be_taken_back(data_dir: &Path) -> bool {
    let state = Store::new(data_dir).state();
    state.is_ok_and(|state| state.phase == Phase::Trial && state.previous.is_some())
}

/// When the certificate among these files is due, Unix seconds.
fn renewal(files: &[store::SecretFile]) -> Option<u64> {
    let (_, pem) = files.iter().find(|(name, _)| name == "client.pem")?;
    let life = Life::of_pem(pem.expose())?;
    Some(unix(life.renew_at(fastrand::f64())))
}

fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn renewal_sentence(state: &State) -> Option<String> {
    let at = state.renew_at()?;
    Some(format!(
        "the certificate is renewed at {}",
        humantime::format_rfc3339_seconds(at)
    ))
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ready => "ready",
        Outcome::Pending => "pending",
        Outcome::Denied => "denied",
        Outcome::Transient => "transient",
    }
}
