//! The part of the processor that models may take, all together and each.
//!
//! Every version that scores has an account, into which its fair part of the share flows. What a full account does not
//! take goes into a common one, out of which debts are paid. A window is scored while its account is not in debt; what it
//! took is paid afterwards. So a version that keeps to its part is never held back by another, one that is alone may use
//! the whole share, and all of them together never take more than the share for longer than [`SAVED`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_tags::Moment;

/// What may be saved up and spent at once: so much time's worth of the share.
const SAVED: f64 = 4.0;

/// Debts older than this are forgotten: one odd window does not silence a model for hours.
const DEBT_MAX: f64 = 60.0;

/// The accounts of all versions that score.
pub(crate) struct Budget {
    state: Mutex<Accounts>,
}

struct Accounts {
    /// Seconds of processor time in a second.
    share: f64,
    /// Balances in seconds; `None`: closed.
    each: Vec<Option<f64>>,
    common: f64,
    at: Option<Moment>,
}

/// One version's account; it is closed when this goes.
pub(crate) struct Account {
    budget: Arc<Budget>,
    index: usize,
}

impl Budget {
    /// A budget of so many percent of one core.
    pub(crate) fn new(percent: u32) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(Accounts {
                share: f64::from(percent) / 100.0,
                each: Vec::new(),
                common: 0.0,
                at: None,
            }),
        })
    }

    /// Opens an account.
    pub(crate) fn open(self: &Arc<Self>) -> Account {
        let mut state = self.lock();
        let index = match state.each.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                state.each.push(None);
                state.each.len() - 1
            }
        };
        state.each[index] = Some(0.0);
        let start = state.account_max();
        state.each[index] = Some(start);
        Account {
            budget: self.clone(),
            index,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Accounts> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Whether a window may be scored now.
    pub(crate) fn is_solvent(&self, now: Moment) -> bool {
        let mut state = self.budget.lock();
        state.flow(now);
        state.pay(self.index);
        state.each[self.index].is_some_and(|balance| balance > 0.0)
    }

    /// A window took this.
    pub(crate) fn charge(&self, spent: Duration) {
        let mut state = self.budget.lock();
        let floor = -state.share * DEBT_MAX;
        if let Some(Some(balance)) = state.each.get_mut(self.index) {
            *balance = (*balance - spent.as_secs_f64()).max(floor);
        }
        state.pay(self.index);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.budget.lock().each[self.index] = None;
    }
}

impl Accounts {
    fn open_accounts(&self) -> f64 {
        self.each.iter().flatten().count().max(1) as f64
    }

    fn account_max(&self) -> f64 {
        self.share * SAVED / self.open_accounts()
    }

    fn flow(&mut self, now: Moment) {
        let before = self.at.replace(now).unwrap_or(now);
        let part = self.share * now.since(before).as_secs_f64() / self.open_accounts();
        let full = self.account_max();
        for balance in self.each.iter_mut().flatten() {
            *balance += part;
            if *balance > full {
                self.common += *balance - full;
                *balance = full;
            }
        }
        self.common = self.common.min(self.share * SAVED);
    }

    fn pay(&mut self, index: usize) {
        if let Some(Some(balance)) = self.each.get_mut(index)
            && *balance <= 0.0
        {
            // A little more than nothing, so that it is out of debt.
            let paid = (f64::EPSILON - *balance).min(self.common).max(0.0);
            *balance += paid;
            self.common -= paid;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows that each account got scored in so many seconds at 10 Hz, at this cost in ms each.
    fn scored(percent: u32, costs_ms: &[u64], seconds: i64) -> Vec<u64> {
        let budget = Budget::new(percent);
        let accounts: Vec<Account> = costs_ms.iter().map(|_| budget.open()).collect();
        let mut scored = vec![0; costs_ms.len()];
        for tenth in 0..seconds * 10 {
            let now = Moment(tenth * 100_000_000);
            for (index, cost) in costs_ms.iter().enumerate() {
                if accounts[index].is_solvent(now) {
                    scored[index] += 1;
                    accounts[index].charge(Duration::from_millis(*cost));
                }
            }
        }
        scored
    }

    #[test]
    fn a_model_ten_times_over_its_share_gets_a_tenth() {
        // 100 ms at 10 Hz is a whole core.
        let got = scored(10, &[100], 1_000)[0];
        assert!((990..=1_020).contains(&got), "{got}");
    }

    #[test]
    fn whoever_keeps_to_its_part_is_never_held_back() {
        let got = scored(20, &[6, 500, 100], 600);
        assert_eq!(got[0], 6_000, "{got:?}");
        let spent = got[0] as f64 * 0.006 + got[1] as f64 * 0.5 + got[2] as f64 * 0.1;
        assert!(spent <= 0.2 * (600.0 + SAVED) + 0.6, "{spent} {got:?}");
        assert!(got[1] > 30 && got[2] > 150, "{got:?}");
    }

    #[test]
    fn a_closed_account_leaves_its_part_to_the_others() {
        let budget = Budget::new(10);
        let (first, second) = (budget.open(), budget.open());
        drop(second);
        let again = budget.open();
        assert_eq!(again.index, 1);
        drop(again);
        first.charge(Duration::from_secs(10_000));
        assert!(!first.is_solvent(Moment(0)));
        assert!(!first.is_solvent(Moment(59_000_000_000)));
        assert!(
            first.is_solvent(Moment(61_000_000_000)),
            "debts are bounded"
        );
    }
}
