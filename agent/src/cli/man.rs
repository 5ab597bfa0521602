//! `man`: the manual pages, from the same words as `--help`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::output;

/// Print the manual page, or write one page for each command
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write the page of each command as a file into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl ManArgs {
    pub(super) fn run(self, program: clap::Command) -> anyhow::Result<ExitCode> {
        match self.dir {
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(program).render(&mut page)?;
                output::bytes(&page)?;
            }
            Some(dir) => {
                let problem = || format!("cannot write the manual pages into {}", dir.display());
                std::fs::create_dir_all(&dir).with_context(problem)?;
                clap_mangen::generate_to(program, &dir).with_context(problem)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
