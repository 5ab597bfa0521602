//! The server's clock, where it is wrong: the node that tells the time.

use async_trait::async_trait;
use opcua::nodes::DefaultTypeTree;
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::{NodeManager, ReadNode, RequestContext, ServerContext};
use opcua::types::{DataValue, DateTime, NodeId, StatusCode, TimestampsToReturn, VariableId};

use super::TICKS_PER_MS;

/// The time of a clock that is so far ahead.
pub(super) fn now(ahead_ms: i64) -> DateTime {
    match ahead_ms {
        0 => DateTime::now(),
        ahead => DateTime::from(DateTime::now().ticks() + ahead.saturating_mul(TICKS_PER_MS)),
    }
}

/// Answers reads of `Server_ServerStatus_CurrentTime` before the library does.
pub(super) struct WrongClock {
    pub(super) ahead_ms: i64,
}

#[async_trait]
impl NodeManager for WrongClock {
    fn owns_node(&self, id: &NodeId) -> bool {
        *id == VariableId::Server_ServerStatus_CurrentTime
    }

    fn name(&self) -> &str {
        "a wrong clock"
    }

    fn namespaces_for_user(&self, _context: &RequestContext) -> Vec<NamespaceMetadata> {
        Vec::new()
    }

    async fn init(&self, _type_tree: &mut DefaultTypeTree, _context: ServerContext) {}

    async fn read(
        &self,
        _context: &RequestContext,
        _max_age: f64,
        _timestamps_to_return: TimestampsToReturn,
        nodes_to_read: &mut [&mut ReadNode],
    ) -> Result<(), StatusCode> {
        let now = now(self.ahead_ms);
        for node in nodes_to_read {
            node.set_result(DataValue::new_at(now, now));
        }
        Ok(())
    }
}
