//! `millrace uplink`: connections to cloud cores.

use std::process::ExitCode;

use clap::Subcommand;

use super::{Failure, Global, output, show, status};
use crate::report::UplinkStatus;

/// What can be done with an uplink.
#[derive(Debug, Subcommand)]
pub(crate) enum UplinkCommand {
    /// Every uplink and how it does
    List,
    /// Say whether the uplink is connected and, if not, why
    ///
    /// The running agent tries all the time: this waits until its attempt has an outcome.
    Test {
        /// The uplink
        name: String,
    },
}

impl UplinkCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            UplinkCommand::List => list(global),
            UplinkCommand::Test { name } => test(global, &name),
        }
    }
}

fn list(global: &Global) -> anyhow::Result<ExitCode> {
    let status = status::fetch(global)?;
    if global.json {
        output::json(&status.uplinks)?;
    } else if status.uplinks.is_empty() {
        output::text("No uplinks are configured; every sample stays in the buffer.\n")?;
    } else {
        let mut text = status::uplinks(&status.uplinks, &status.buffer).render("");
        for uplink in &status.uplinks {
            if let Some(error) = &uplink.error {
                text.push_str(&show::bullet("! ", &format!("{}: {error}", uplink.name)));
            }
        }
        output::text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An attempt ends, well or not, within the connect timeout; longer than that is an answer too.
const TEST_ATTEMPTS: u32 = 30;
/// Between two looks at the attempt.
const TEST_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

fn test(global: &Global, name: &str) -> anyhow::Result<ExitCode> {
    let mut uplink = find(global, name)?;
    for _ in 1..TEST_ATTEMPTS {
        if uplink.state != "connecting" || uplink.error.is_some() {
            break;
        }
        std::thread::sleep(TEST_PAUSE);
        uplink = find(global, name)?;
    }
    if global.json {
        output::json(&uplink)?;
    } else {
        output::text(&verdict(&uplink))?;
    }
    Ok(if uplink.state == "connected" {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn find(global: &Global, name: &str) -> anyhow::Result<UplinkStatus> {
    let uplinks = status::fetch(global)?.uplinks;
    let names: Vec<String> = uplinks.iter().map(|u| u.name.clone()).collect();
    uplinks.into_iter().find(|u| u.name == name).ok_or_else(|| {
        Failure::new(format!("there is no uplink {name}"))
            .hint(if names.is_empty() {
                "no uplink is configured".to_owned()
            } else {
                format!("there are: {}", names.join(", "))
            })
            .into()
    })
}

fn verdict(uplink: &UplinkStatus) -> String {
    let sentence = match (uplink.state.as_str(), &uplink.error) {
        ("connected", error) => {
            let records = show::count(uplink.records_acked_total);
            let at = uplink.endpoint.as_deref().unwrap_or(&uplink.url);
            let mut said = format!("is connected to {at}");
            if let Some(protocol) = &uplink.protocol {
                said.push_str(&format!(" with {protocol}"));
            }
            said.push_str(&format!("; {records} samples and events acknowledged"));
            if let Some(core) = &uplink.core {
                let words = status::core_words(core);
                said.push_str(&format!("; the core settles by itself: {words}"));
            }
            for more in error.iter().chain(&uplink.warnings) {
                said.push_str(&format!("; {more}"));
            }
            if !uplink.refused_subscriptions.is_empty() {
                let refused = uplink.refused_subscriptions.join(", ");
                said.push_str(&format!(
                    "; commands do not arrive, the broker refuses the subscription of {refused}"
                ));
            }
            said
        }
        (state, Some(error)) => format!("is {state}: {}: {error}", uplink.url),
        (state, None) => format!("is {state}: {} has not answered yet", uplink.url),
    };
    show::bullet(&format!("{} ", uplink.name), &sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_named() {
        let mut uplink = UplinkStatus {
            name: "cloud".into(),
            url: "mqtts://core.example:8883".into(),
            state: "down".into(),
            error: Some("the certificate is for other.example".into()),
            ..UplinkStatus::default()
        };
        assert_eq!(
            verdict(&uplink),
            "cloud is down: mqtts://core.example:8883: the certificate is for other.example\n"
        );
        uplink.state = "connected".into();
        uplink.error = None;
        assert_eq!(
            verdict(&uplink),
            "cloud is connected to mqtts://core.example:8883; 0 samples and events\n      acknowledged\n"
        );
        uplink.protocol = Some("MQTT 5".into());
        uplink.endpoint = Some("mqtts://second.example:8883".into());
        uplink.warnings = vec!["our certificate ends in 5 days".into()];
        let text = verdict(&uplink).replace("\n     ", "");
        for words in [
            "second.example:8883 with MQTT 5",
            "our certificate ends in 5 days",
        ] {
            assert!(text.contains(words), "{text}");
        }
    }
}
