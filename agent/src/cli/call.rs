//! `millrace call`: a method of an OPC UA server.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::client::block_on;
use super::opcua::{Login, answer};
use super::{Global, output, show};
use crate::report::{CallDone, OpcuaQuestion};

/// Call a method of an OPC UA server
///
/// Arguments are checked against what the method says it takes before it is called. The server is an address, or a device
/// of the running agent, whose login is used then and whose log keeps who called what.
#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// `opc.tcp://HOST:PORT[/PATH]`, or a device of the running agent
    server: String,
    /// The object whose method it is, for example 'nsu=http://vendor.example/plant;s=Line1'
    object: String,
    /// The method: its name, or its node
    method: String,
    /// Numbers, true, false, texts, arrays such as `[1,2]`; after `--`, whatever begins with `-`, too
    #[arg(allow_negative_numbers = true)]
    arguments: Vec<String>,
    #[command(flatten)]
    login: Login,
    /// How long the method may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl CallArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let question = OpcuaQuestion::Call {
            object: self.object.clone(),
            method: self.method.clone(),
            arguments: self.arguments.clone(),
        };
        let done: CallDone = block_on(answer(
            &self.server,
            &self.login,
            self.timeout,
            question,
            global,
            |_| {},
        ))?;
        if global.json {
            output::json(&done)?;
        } else {
            output::text(&render(&done))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn render(done: &CallDone) -> String {
    if done.outputs.is_empty() {
        return format!("{} is done.\n", done.method);
    }
    let lines = done.outputs.iter();
    let lines = lines.map(|output| format!("{} = {}\n", output.name, show::value(&output.value)));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::CallOutput;

    #[test]
    fn outputs_have_names() {
        let mut done = CallDone {
            method: "mix".to_owned(),
            outputs: vec![
                CallOutput {
                    name: "mass".to_owned(),
                    value: json!(2.5),
                },
                CallOutput {
                    name: "shouted".to_owned(),
                    value: json!("MASH"),
                },
            ],
        };
        assert_eq!(render(&done), "mass = 2.5\nshouted = MASH\n");
        done.outputs.clear();
        assert_eq!(render(&done), "mix is done.\n");
    }
}
