//! Warns in the log, once an outage, when the store will be full within a day.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::report::runway_problem;

/// How often it is looked at: a day is a long time.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Looks until the stop.
pub(super) async fn watch(gateway: Arc<Gateway>, shutdown: CancellationToken) {
    let mut warned = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let problem = runway_problem(&gateway.status());
        if let Some(problem) = problem.as_ref().filter(|_| !warned) {
            tracing::warn!("{problem}");
        }
        if problem.is_none() && warned {
            tracing::info!("the store has room for a day again, or every uplink is up");
        }
        warned = problem.is_some();
    }
}
