//! `millrace model install`: a bundle comes onto the shelf.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use millrace_inference::Bundle;

use super::Which;
use super::list::{micros, short};
use crate::cli::client::{Client, query};
use crate::cli::{Failure, Global, output, show};
use crate::shelf::Installed;

/// Put a bundle on the shelf
///
/// The running agent examines it first, in a process of its own: signature, digests, operators, shapes, golden windows, time and
/// memory. What is not as it should be is named, and the version that runs goes on. Installed is not promoted: `--promote`, or
/// `millrace model promote` later. A bundle needs no signature here, but a signature that it has must be right.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The bundle: a directory or a tar file
    bundle: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Also a version below the one that runs
    #[arg(long)]
    allow_downgrade: bool,
    /// Have it run at once
    #[arg(long)]
    promote: bool,
}

impl InstallArgs {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let packed = Bundle::pack(&self.bundle).map_err(|error| {
            Failure::new("this is not a bundle that can be installed").because(error)
        })?;
        let mut path = format!(
            "/v1/models/install?allow_downgrade={}&promote={}",
            self.allow_downgrade, self.promote
        );
        if let Some(model) = &self.which.model {
            path.push_str("&model=");
            path.push_str(&query(model));
        }
        let installed: Installed = Client::new(global).post_bytes(&path, packed)?;
        if global.json {
            output::json(&installed)?;
        } else {
            output::text(&render(&installed))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn render(installed: &Installed) -> String {
    let version = &installed.version;
    let next = match installed.promoted {
        true => "It runs.".to_owned(),
        false => format!(
            "It does not run yet: `millrace model promote {}` does that.",
            version.version
        ),
    };
    format!(
        "{} {} is on the shelf (digest {}, {}).\nA window takes {} (p50), {} (p99); the model takes {} of memory.\n{next}\n",
        installed.name,
        version.version,
        short(&version.digest),
        signature(&version.signature),
        micros(version.probe.p50_us),
        micros(version.probe.p99_us),
        show::bytes(version.probe.memory_bytes),
    )
}

/// Who signed it, in words.
fn signature(signature: &str) -> String {
    match signature {
        "unsigned" => "unsigned".to_owned(),
        "unverified" => "signed; [local] model_keys has no key to compare that with".to_owned(),
        key => format!("signed by {key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shelf::Version;
    use crate::shelf::examine::Probe;

    #[test]
    fn what_was_installed_and_what_is_next() {
        let installed = |promoted, signature: &str| Installed {
            name: "pump".to_owned(),
            version: Version {
                digest: "0123456789abcdef".to_owned(),
                version: "1.1.0".to_owned(),
                signature: signature.to_owned(),
                probe: Probe {
                    windows: 200,
                    p50_us: 41.2,
                    p99_us: 260.0,
                    memory_bytes: 3_500_000,
                },
                ..Version::default()
            },
            promoted,
        };
        let texts = [
            render(&installed(false, "unverified")),
            render(&installed(true, "ed25519:0123456789abcdef")),
        ];
        insta::assert_snapshot!(texts.join("\n"));
    }
}
