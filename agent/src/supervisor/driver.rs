//! From a device's settings to the driver of its protocol.

use std::sync::Arc;

use millrace_drivers::{Driver, modbus, opcua};
use millrace_tags::{Clock, TagId};

use crate::config::{self, Connection, TagPoint};

/// The driver that the device's connection asks for.
pub(super) fn driver(
    device: &config::Device,
    tags: &[TagId],
    clock: &Arc<dyn Clock>,
) -> Arc<dyn Driver> {
    let tags = device.tags.iter().zip(tags);
    match &device.connection {
        Connection::ModbusTcp(settings) => {
            let point = |(tag, id): (&config::Tag, &TagId)| match &tag.point {
                TagPoint::Modbus(spec) => Some(modbus::Point {
                    tag: *id,
                    spec: *spec,
                    interval: tag.poll_interval,
                }),
                TagPoint::Opcua(_) => None,
            };
            let points = tags.filter_map(point).collect();
            Arc::new(modbus::TcpDriver::new(
                settings.clone(),
                points,
                clock.clone(),
            ))
        }
        Connection::Opcua(settings) => {
            let item = |(tag, id): (&config::Tag, &TagId)| match &tag.point {
                TagPoint::Opcua(node) => Some(opcua::Item {
                    tag: *id,
                    node: node.clone(),
                    interval: tag.poll_interval,
                }),
                TagPoint::Modbus(_) => None,
            };
            let items = tags.filter_map(item).collect();
            Arc::new(opcua::OpcuaDriver::new(
                settings.clone(),
                items,
                clock.clone(),
            ))
        }
    }
}
