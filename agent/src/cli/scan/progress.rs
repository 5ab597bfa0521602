//! How far a scan is, and its end by Ctrl-C.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use millrace_drivers::modbus::scan::Progress;

use super::super::show;

/// Runs a search until its end or Ctrl-C; whether it was Ctrl-C.
pub(super) async fn stopped(
    search: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<bool> {
    tokio::select! {
        searched = search => searched.map(|()| false),
        _ = tokio::signal::ctrl_c() => Ok(true),
    }
}

/// Progress on stderr, where that is a terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Self {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr_with_hz(5),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(
            ProgressStyle::with_template("{bar:30} {percent:>3} % {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self(bar)
    }

    pub(super) fn say(&self, message: &str) {
        self.0.set_message(message.to_owned());
        self.0.tick();
    }

    pub(super) fn show(&self, progress: &Progress) {
        self.0.set_length(progress.total as u64);
        self.0.set_position(progress.done as u64);
        let settings = progress.settings.as_ref();
        let settings = settings.map(|settings| format!("{settings}, "));
        self.0.set_message(format!(
            "{}unit {}, at most {} more",
            settings.unwrap_or_default(),
            progress.unit,
            show::seconds(progress.left.as_secs())
        ));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
