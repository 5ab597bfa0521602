//! Who a server says it is, and what it can take.

use millrace_tags::Value;
use opcua::types::{AttributeId, NodeId, VariableId};

use super::decode;
use super::json::Lexicon;
use super::server::attributes;
use super::tool::{OpcuaTool, bad};
use crate::SessionError;

/// What a server says of itself. What it leaves out is left out here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    /// Product, manufacturer, version, state, times.
    pub about: Vec<(&'static str, String)>,
    /// How much one request may hold, and the like; 0 means no limit.
    pub limits: Vec<(&'static str, String)>,
    /// By index.
    pub namespaces: Vec<String>,
    /// What of the standard it covers.
    pub profiles: Vec<String>,
}

const ABOUT: [(&str, VariableId); 9] = [
    (
        "product",
        VariableId::Server_ServerStatus_BuildInfo_ProductName,
    ),
    (
        "manufacturer",
        VariableId::Server_ServerStatus_BuildInfo_ManufacturerName,
    ),
    (
        "product uri",
        VariableId::Server_ServerStatus_BuildInfo_ProductUri,
    ),
    (
        "version",
        VariableId::Server_ServerStatus_BuildInfo_SoftwareVersion,
    ),
    (
        "build",
        VariableId::Server_ServerStatus_BuildInfo_BuildNumber,
    ),
    ("built", VariableId::Server_ServerStatus_BuildInfo_BuildDate),
    ("state", VariableId::Server_ServerStatus_State),
    ("started", VariableId::Server_ServerStatus_StartTime),
    ("its time", VariableId::Server_ServerStatus_CurrentTime),
];

const LIMITS: [(&str, VariableId); 12] = [
    (
        "nodes per read",
        VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    ),
    (
        "nodes per write",
        VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerWrite,
    ),
    (
        "nodes per browse",
        VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
    ),
    (
        "calls at once",
        VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerMethodCall,
    ),
    (
        "items per call",
        VariableId::Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
    ),
    (
        "nodes per history read",
        VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData,
    ),
    (
        "continuation points",
        VariableId::Server_ServerCapabilities_MaxBrowseContinuationPoints,
    ),
    (
        "fastest sampling, ms",
        VariableId::Server_ServerCapabilities_MinSupportedSampleRate,
    ),
    (
        "array length",
        VariableId::Server_ServerCapabilities_MaxArrayLength,
    ),
    (
        "string length",
        VariableId::Server_ServerCapabilities_MaxStringLength,
    ),
    (
        "sessions",
        VariableId::Server_ServerCapabilities_MaxSessions,
    ),
    (
        "subscriptions",
        VariableId::Server_ServerCapabilities_MaxSubscriptions,
    ),
];

impl OpcuaTool {
    /// Asks the server about itself.
    ///
    /// # Errors
    /// Where the session breaks.
    pub async fn identify(&self) -> Result<Identity, SessionError> {
        let profiles = VariableId::Server_ServerCapabilities_ServerProfileArray;
        let ids = ABOUT.iter().chain(&LIMITS).map(|(_, id)| *id);
        let nodes: Vec<NodeId> = ids.chain([profiles]).map(NodeId::from).collect();
        let wanted = nodes.iter();
        let wanted = wanted.map(|node| (node.clone(), AttributeId::Value));
        let read = attributes(&self.channel, wanted.collect()).await?;
        let node = |place: usize| nodes.get(place).cloned();
        let values = read.iter().enumerate();
        self.types.learn(&self.channel, values, node).await?;
        let (known, context) = (self.types.read(), self.channel.context().read());
        let lexicon = Lexicon::new(&known, &context);
        let shown = |place: usize| {
            let data = read.get(place).filter(|data| bad(data).is_none())?;
            let names = known.names(place).map(|names| &**names);
            decode::shown(data, names, &lexicon)
        };
        let row = |(place, (name, _)): (usize, &(&'static str, VariableId))| {
            Some((*name, text(&shown(place)?)))
        };
        let profiles = match shown(nodes.len() - 1) {
            Some(Value::Json(list)) => serde_json::from_str(&list).unwrap_or_default(),
            _ => Vec::new(),
        };
        let limits = LIMITS.iter().enumerate();
        let limits = limits.map(|(place, limit)| (ABOUT.len() + place, limit));
        Ok(Identity {
            about: ABOUT.iter().enumerate().filter_map(row).collect(),
            limits: limits.filter_map(row).collect(),
            namespaces: self.namespaces.clone(),
            profiles,
        })
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.to_string(),
        value => super::encode::shown(value),
    }
}
