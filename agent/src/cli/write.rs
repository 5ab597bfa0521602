//! `millrace write`: a value to a tag, or with `--on` to an address, read back.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::once::{self, Wanted, Written};
use super::opcua::Login;
use super::target::Target;
use super::{Global, output, show};
use crate::report::{WriteDone, WriteRequest};

/// Write a value to a tag and read it back
///
/// The running agent writes it, ahead of its reads. Only tags with `writable = true` can be written; the log keeps
/// who wrote what, and the old value. With --on no configuration is needed: the value goes to an address of that
/// device.
#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// Full name of the tag, for example boiler/setpoint; with --on: an address such as holding:0, 40001 or 'ns=2;s=Set'
    tag: String,
    /// A number in the tag's unit, true, false, a text, or an array such as `[1,2]`
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Write to this device: `tcp://HOST[:502][/UNIT]`, `rtu+tcp://HOST:PORT/UNIT`, `/dev/ttyUSB0,9600,8E1/3` or
    /// `opc.tcp://HOST:PORT[/PATH]`
    #[arg(long, value_name = "URL")]
    on: Option<String>,
    /// Type of the value [Modbus default: u16, or bool for coils]
    #[arg(long = "type", value_name = "TYPE", requires = "on")]
    value_type: Option<String>,
    /// Order of bytes and words: abcd, badc, cdab or dcba
    #[arg(long, value_name = "ORDER", requires = "on")]
    order: Option<String>,
    #[command(flatten)]
    login: Login,
    /// How long the device may take
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration, requires = "on")]
    timeout: Duration,
}

impl WriteArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        self.login.only_with(self.on.as_deref())?;
        if let Some(on) = &self.on {
            return self.write_on(on, global);
        }
        let request = WriteRequest {
            tag: self.tag.clone(),
            value: value(&self.value),
        };
        let done: WriteDone = Client::new(global).post("/v1/write", &request)?;
        if global.json {
            output::json(&done)?;
        } else {
            output::text(&render(&done))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl WriteArgs {
    fn write_on(&self, on: &str, global: &Global) -> anyhow::Result<ExitCode> {
        let addresses = [self.tag.clone()];
        let wanted = Wanted {
            addresses: &addresses,
            value_type: self.value_type.as_deref(),
            order: self.order.as_deref(),
            login: &self.login,
            timeout: self.timeout,
            global,
        };
        let written = once::write(&Target::parse(on)?, &wanted, &self.value)?;
        if global.json {
            output::json(&written)?;
        } else {
            output::text(&render_on(&written))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn render_on(written: &Written) -> String {
    let now = match &written.read_back {
        Some(value) => format!("is {}, read back", show::value(value)),
        None => "was sent to all units; nobody answers a broadcast".to_owned(),
    };
    let was = written.old.as_ref().map(show::value);
    let was = was.map_or_else(String::new, |old| format!("; it was {old}"));
    format!("{} {now}{was}.\n", written.address)
}

/// What is no number, bool, array or quoted text is a text as it stands.
fn value(typed: &str) -> Value {
    match serde_json::from_str(typed) {
        Ok(Value::Null | Value::Object(_)) | Err(_) => Value::String(typed.to_owned()),
        Ok(value) => value,
    }
}

fn render(done: &WriteDone) -> String {
    let unit = done.unit.as_deref().map(|unit| format!(" {unit}"));
    let unit = unit.unwrap_or_default();
    let old = match &done.old {
        Value::Null => "no value".to_owned(),
        old => format!("{}{unit}", show::value(old)),
    };
    let now = show::value(&done.read_back);
    format!("{} is {now}{unit}, read back; it was {old}.\n", done.tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_typed_is_a_value() {
        for (typed, value_of) in [
            ("4.5", json!(4.5)),
            ("-3", json!(-3)),
            ("true", json!(true)),
            ("[1,2]", json!([1, 2])),
            ("\"12\"", json!("12")),
            ("BLR-7", json!("BLR-7")),
        ] {
            assert_eq!(value(typed), value_of, "{typed}");
        }
    }

    #[test]
    fn old_and_new_value_are_told() {
        let done = WriteDone {
            tag: "boiler/setpoint".into(),
            value: json!(4.5),
            old: json!(4.0),
            read_back: json!(4.5),
            unit: Some("bar".into()),
        };
        let text = "boiler/setpoint is 4.5 bar, read back; it was 4 bar.\n";
        assert_eq!(render(&done).replace("4.0 bar", "4 bar"), text);
    }

    #[test]
    fn address_tells_old_and_new_value() {
        let mut written = Written {
            address: "holding:3".into(),
            old: Some(json!(7)),
            read_back: Some(json!(9)),
        };
        assert_eq!(
            render_on(&written),
            "holding:3 is 9, read back; it was 7.\n"
        );
        (written.old, written.read_back) = (None, None);
        assert!(render_on(&written).contains("broadcast"));
    }
}
