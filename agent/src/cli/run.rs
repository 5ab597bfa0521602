//! `millrace run`: the agent in the foreground.

use std::process::ExitCode;

use clap::Args;

use super::Global;
use crate::supervisor::{self, RunOptions};

/// Run the agent in the foreground
///
/// SIGTERM and Ctrl-C commit the buffer and exit 0. A bad configuration starts the last good one and
/// says so in `millrace status` and in the log.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Exit 2 on a bad configuration instead of starting the last good one
    #[arg(long)]
    strict: bool,
}

impl RunArgs {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        super::init_logs("info");
        supervisor::run(&RunOptions {
            config: global.config.clone(),
            data_dir: global.data_dir.clone(),
            strict: self.strict,
            socket: global.socket.clone(),
        })
    }
}
