//! `millrace read --on URL`, `write --on URL`: values of a device that no configuration names.

use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::SessionError;
use millrace_drivers::modbus::{
    Address, AddressError, DataType, OrderError, PointSpec, TypeError, WordOrder,
};
use millrace_drivers::opcua::{NodeAddress, NodeAddressError, OpcuaTool, Settings};
use millrace_tags::{Clock, Sample, SystemClock, TagId, Value};
use serde::Serialize;

use super::advice::failed;
use super::client::block_on;
use super::opcua::{self, Login};
use super::target::Target;
use super::{Failure, Global, reach};
use crate::live::{TagLabel, tag_row, value_json};
use crate::report::TagRow;

/// What to read, as typed.
pub(super) struct Wanted<'a> {
    pub(super) addresses: &'a [String],
    pub(super) value_type: Option<&'a str>,
    pub(super) order: Option<&'a str>,
    pub(super) login: &'a Login,
    pub(super) timeout: Duration,
    pub(super) global: &'a Global,
}

/// Connects, reads each address once, says goodbye.
pub(super) fn read(target: &Target, wanted: &Wanted<'_>) -> anyhow::Result<Vec<TagRow>> {
    match target {
        Target::OpcUa(url) => read_opcua(wanted.opcua_settings(url)?, &wanted.nodes()?),
        _ => read_modbus(target, wanted, &wanted.points()?),
    }
}

fn read_modbus(
    target: &Target,
    wanted: &Wanted<'_>,
    points: &[PointSpec],
) -> anyhow::Result<Vec<TagRow>> {
    let clock: Arc<dyn Clock> = reach::clock();
    block_on(async {
        let mut way = reach::way(target, wanted.timeout, wanted.global).await?;
        let mut rows = Vec::new();
        for point in points {
            let sample = way.caller.read(target.unit(), point).await;
            let sample = sample.map_err(unreachable)?;
            rows.push(row(point.address().to_string(), &sample, &*clock));
        }
        Ok(rows)
    })
}

/// What a write did.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    pub(super) address: String,
    /// Before; nothing after a broadcast.
    pub(super) old: Option<serde_json::Value>,
    /// Now, as the device says; nothing after a broadcast.
    pub(super) read_back: Option<serde_json::Value>,
}

/// Connects, writes one value and reads it back.
pub(super) fn write(target: &Target, wanted: &Wanted<'_>, text: &str) -> anyhow::Result<Written> {
    if let Target::OpcUa(url) = target {
        return write_opcua(wanted.opcua_settings(url)?, &wanted.nodes()?, text);
    }
    let points = wanted.points()?;
    let Some(point) = points.first() else {
        return Err(Failure::usage("there is no address to write to").into());
    };
    let value = typed(text, point.data_type());
    block_on(async {
        let mut way = reach::way(target, wanted.timeout, wanted.global).await?;
        let report = way.caller.write(target.unit(), point, &value).await;
        let report =
            report.map_err(|error| Failure::new("nothing is sure to be written").because(error))?;
        Ok(Written {
            address: point.address().to_string(),
            old: report.old.as_ref().map(value_json),
            read_back: report.read_back.as_ref().map(value_json),
        })
    })
}

/// What was typed, as the kind of value that the type takes; the encoder refuses what does not fit.
fn typed(text: &str, data_type: DataType) -> Value {
    let plain = text.trim();
    match data_type {
        DataType::Text(_) => return Value::Text(text.into()),
        DataType::Array(..) => return Value::Json(plain.into()),
        _ => {}
    }
    if let Ok(number) = plain.parse::<u64>() {
        return Value::U64(number);
    }
    if let Ok(number) = plain.parse::<i64>() {
        return Value::I64(number);
    }
    match plain.to_ascii_lowercase().as_str() {
        "true" | "on" => Value::Bool(true),
        "false" | "off" => Value::Bool(false),
        _ => plain
            .parse::<f64>()
            .map_or_else(|_| Value::Text(plain.into()), Value::F64),
    }
}

fn read_opcua(settings: Settings, nodes: &[NodeAddress]) -> anyhow::Result<Vec<TagRow>> {
    let clock = SystemClock::new();
    block_on(async {
        let unread = |error| opcua::failed("nothing was read", error);
        let tool = OpcuaTool::open(settings).await.map_err(unread)?;
        let read = tool.read(nodes).await.map_err(unread)?;
        tool.close().await;
        let rows = nodes.iter().zip(read);
        let rows = rows.map(|(node, (value, quality, source_time))| {
            let sample = Sample {
                tag: TagId(0),
                value,
                quality,
                source_time,
                gateway_time: clock.now(),
            };
            row(node.to_string(), &sample, &clock)
        });
        Ok(rows.collect())
    })
}

fn write_opcua(settings: Settings, nodes: &[NodeAddress], text: &str) -> anyhow::Result<Written> {
    let Some(node) = nodes.first() else {
        return Err(Failure::usage("there is no node to write to").into());
    };
    block_on(async {
        let opened = OpcuaTool::open(settings).await;
        let tool = opened.map_err(|error| opcua::failed("nothing was written", error))?;
        let report = tool.write(node, text).await;
        tool.close().await;
        let report =
            report.map_err(|error| Failure::new("nothing is sure to be written").because(error))?;
        Ok(Written {
            address: node.to_string(),
            old: report.old.as_ref().map(value_json),
            read_back: report.read_back.as_ref().map(value_json),
        })
    })
}

fn unreachable(error: SessionError) -> Failure {
    failed("nothing was read", error)
}

fn row(address: String, sample: &Sample, clock: &dyn Clock) -> TagRow {
    let label = TagLabel {
        full_name: address,
        unit: None,
    };
    tag_row(&label, Some(sample), clock)
}

impl Wanted<'_> {
    fn points(&self) -> anyhow::Result<Vec<PointSpec>> {
        let mut points = Vec::new();
        for text in self.addresses {
            let address: Address = text.parse().map_err(|e: AddressError| bad(&e, e.hint()))?;
            let data_type = match self.value_type {
                Some(name) => name.parse().map_err(|e: TypeError| bad(&e, e.hint()))?,
                None => PointSpec::default_type(address).unwrap_or(DataType::U16),
            };
            let order = match self.order {
                Some(name) => name.parse().map_err(|e: OrderError| bad(&e, e.hint()))?,
                None => WordOrder::default(),
            };
            let point = PointSpec::new(address, data_type, order);
            points.push(point.map_err(|e| bad(&e, e.hint()))?);
        }
        Ok(points)
    }

    fn nodes(&self) -> anyhow::Result<Vec<NodeAddress>> {
        let mut nodes = Vec::new();
        for text in self.addresses {
            let node = text.parse();
            nodes.push(node.map_err(|e: NodeAddressError| bad(&e, e.hint()))?);
        }
        Ok(nodes)
    }

    fn opcua_settings(&self, url: &str) -> anyhow::Result<Settings> {
        if self.value_type.is_some() || self.order.is_some() {
            let failure = Failure::usage("an OPC UA server knows its types and orders");
            return Err(failure.hint("leave --type and --order away").into());
        }
        Ok(self.login.settings(url, self.timeout, self.global)?)
    }
}

/// A part of the command that cannot be understood.
pub(super) fn bad(error: &dyn std::error::Error, hint: impl Into<String>) -> Failure {
    Failure::usage(error.to_string()).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANONYMOUS: Login = Login {
        security: None,
        mode: None,
        username: None,
        password_file: None,
    };

    fn wanted<'a>(
        global: &'a Global,
        addresses: &'a [String],
        value_type: Option<&'a str>,
    ) -> Wanted<'a> {
        Wanted {
            addresses,
            value_type,
            order: None,
            login: &ANONYMOUS,
            timeout: Duration::from_secs(1),
            global,
        }
    }

    #[test]
    fn types_have_defaults() {
        let addresses = ["holding:7", "coil:1", "holding:2.3", "40001"].map(String::from);
        let points = wanted(&Global::default(), &addresses, None)
            .points()
            .unwrap();
        let types: Vec<DataType> = points.iter().map(PointSpec::data_type).collect();
        assert_eq!(
            types,
            [DataType::U16, DataType::Bool, DataType::Bool, DataType::U16]
        );
    }

    #[test]
    fn bad_parts_are_usage_with_a_hint() {
        for (address, value_type) in [
            ("5", None),
            ("holding:0", Some("float")),
            ("coil:0", Some("f32")),
        ] {
            let error = wanted(&Global::default(), &[address.into()], value_type)
                .points()
                .unwrap_err();
            let failure = error.downcast_ref::<Failure>().unwrap();
            assert_eq!(failure.exit_code(), 2, "{address}");
            assert!(
                super::super::failure::text(&error).contains("hint: "),
                "{error}"
            );
        }
        let typed = wanted(&Global::default(), &[], Some("f32")).opcua_settings("opc.tcp://h:4840");
        assert!(typed.unwrap_err().to_string().contains("knows its types"));
    }

    #[test]
    fn values_are_typed_as_the_type_takes_them() {
        assert_eq!(typed("7", DataType::U16), Value::U64(7));
        assert_eq!(typed("-7", DataType::I16), Value::I64(-7));
        assert_eq!(typed("2.5", DataType::F32), Value::F64(2.5));
        assert_eq!(typed("on", DataType::Bool), Value::Bool(true));
        assert_eq!(typed(" 7", DataType::Text(4)), Value::Text(" 7".into()));
        assert_eq!(
            typed("[1,2]", "u16[2]".parse().unwrap()),
            Value::Json("[1,2]".into())
        );
    }
}
