//! `millrace device`: one device at a time.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Subcommand;

use super::client::Client;
use super::{Global, output, show, status, tags};
use crate::report::{DeviceAction, DeviceRequest, DeviceStatus, DeviceTest};

/// What can be done with a device.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Every device and how it does
    List,
    /// Connect once more, read every tag once, say what came
    Test {
        /// The device
        name: String,
    },
    /// Stop polling until resumed
    Pause {
        /// The device
        name: String,
    },
    /// Poll again
    Resume {
        /// The device
        name: String,
    },
}

impl DeviceCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = Client::new(global);
        match self {
            DeviceCommand::List => list(&client, global),
            DeviceCommand::Test { name } => test(&client, global, name),
            DeviceCommand::Pause { name } => change(&client, global, name, DeviceAction::Pause),
            DeviceCommand::Resume { name } => change(&client, global, name, DeviceAction::Resume),
        }
    }
}

fn list(client: &Client, global: &Global) -> anyhow::Result<ExitCode> {
    let devices: Vec<DeviceStatus> = client.get("/v1/devices")?;
    if global.json {
        output::json(&devices)?;
    } else {
        output::text(&render_list(&devices))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render_list(devices: &[DeviceStatus]) -> String {
    if devices.is_empty() {
        return "No devices are configured.\n".into();
    }
    let mut text = status::devices(devices).render("");
    for device in devices {
        if let Some(error) = &device.error {
            text.push_str(&show::bullet("! ", &format!("{}: {error}", device.name)));
        }
        let excluded = device.excluded.iter().map(ToString::to_string);
        for remark in excluded.chain(device.remarks.iter().cloned()) {
            text.push_str(&show::bullet("- ", &format!("{}: {remark}", device.name)));
        }
    }
    text
}

fn test(client: &Client, global: &Global, name: String) -> anyhow::Result<ExitCode> {
    let action = DeviceAction::Test;
    let found: DeviceTest = client.post("/v1/device", &DeviceRequest { name, action })?;
    if global.json {
        output::json(&found)?;
    } else {
        output::text(&render_test(&found))?;
    }
    Ok(if found.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn render_test(found: &DeviceTest) -> String {
    let mut text = String::new();
    if let Some(ms) = found.connect_ms {
        let _ = writeln!(text, "connected in {}", show::millis(ms));
    }
    if let Some(ms) = found.read_ms {
        let good = found.tags.iter().filter(|t| t.quality == "good").count();
        let _ = writeln!(
            text,
            "read {} tags in {}, {good} good",
            found.tags.len(),
            show::millis(ms)
        );
    }
    if !found.tags.is_empty() {
        text.push('\n');
        text.push_str(&tags::table(&found.tags).render(""));
        text.push('\n');
    }
    for remark in &found.remarks {
        text.push_str(&show::bullet("- ", remark));
    }
    match (&found.error, found.ok) {
        (Some(error), _) => text.push_str(&show::bullet("FAILED: ", error)),
        (None, true) => {
            let _ = writeln!(text, "{} is well.", found.name);
        }
        (None, false) => {
            let _ = writeln!(text, "{} answers, but not every tag is good.", found.name);
        }
    }
    text
}

fn change(
    client: &Client,
    global: &Global,
    name: String,
    action: DeviceAction,
) -> anyhow::Result<ExitCode> {
    let device: DeviceStatus = client.post("/v1/device", &DeviceRequest { name, action })?;
    if global.json {
        output::json(&device)?;
    } else {
        let state = status::state_name(device.state);
        output::text(&format!("{} is {state}.\n", device.name))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{DeviceState, TagRow};
    use serde_json::json;

    #[test]
    fn test_of_a_device_with_a_bad_tag() {
        let found = DeviceTest {
            name: "boiler".into(),
            connect_ms: Some(2.4),
            read_ms: Some(11.0),
            tags: vec![
                TagRow {
                    tag: "boiler/pressure".into(),
                    value: json!(4.25),
                    unit: Some("bar".into()),
                    quality: "good".into(),
                    age_ms: Some(3.0),
                    ..TagRow::default()
                },
                TagRow {
                    tag: "boiler/run".into(),
                    quality: "bad".into(),
                    reason: Some("illegal-address".into()),
                    ..TagRow::default()
                },
            ],
            remarks: vec!["holding:99 does not exist; asked again in 60 s".into()],
            ..DeviceTest::default()
        };
        insta::assert_snapshot!(render_test(&found));
    }

    #[test]
    fn test_of_a_device_that_is_away() {
        let found = DeviceTest {
            name: "boiler".into(),
            error: Some("cannot connect to 10.0.0.5:502: connection refused".into()),
            ..DeviceTest::default()
        };
        assert_eq!(
            render_test(&found),
            "FAILED: cannot connect to 10.0.0.5:502: connection refused\n"
        );
    }

    #[test]
    fn list_names_errors_below() {
        let devices = [DeviceStatus {
            name: "boiler".into(),
            address: "10.0.0.5:502".into(),
            state: DeviceState::Offline,
            error: Some("cannot connect to 10.0.0.5:502: connection refused".into()),
            tags: 3,
            read_errors_total: 7,
            ..DeviceStatus::default()
        }];
        insta::assert_snapshot!(render_list(&devices));
        assert_eq!(render_list(&[]), "No devices are configured.\n");
    }
}
