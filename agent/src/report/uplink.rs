//! Uplinks, as they are told of.

use serde::{Deserialize, Serialize};

use super::cause;
use crate::cli::show;

/// One uplink.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct UplinkStatus {
    /// Its name.
    pub(crate) name: String,
    /// Where to.
    pub(crate) url: String,
    /// Its profile.
    pub(crate) profile: String,
    /// `connecting`, `connected`, `waiting` (for a primary host) or `down`.
    pub(crate) state: String,
    /// Why it is down.
    pub(crate) error: Option<String>,
    /// Messages acknowledged by the broker.
    pub(crate) messages_acked_total: u64,
    /// Samples and events acknowledged by the broker.
    pub(crate) records_acked_total: u64,
    /// Connections made.
    pub(crate) connects_total: u64,
    /// The version of MQTT that was agreed on last.
    #[serde(default)]
    pub(crate) protocol: Option<String>,
    /// Which of the urls the connection goes to.
    #[serde(default)]
    pub(crate) endpoint: Option<String>,
    /// When our certificate ends, RFC 3339.
    #[serde(default)]
    pub(crate) certificate_ends: Option<String>,
    /// When the broker's certificate ends, RFC 3339.
    #[serde(default)]
    pub(crate) broker_certificate_ends: Option<String>,
    /// What is to be done soon: a certificate that ends.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
    /// The client id that the broker gave us, where the configuration leaves it empty.
    #[serde(default)]
    pub(crate) given_client_id: Option<String>,
    /// Messages that the broker took although nobody was subscribed; only MQTT 5 tells.
    #[serde(default)]
    pub(crate) unheard_total: u64,
    /// Subscriptions that the broker refuses, with its reason: commands do not arrive.
    #[serde(default)]
    pub(crate) refused_subscriptions: Vec<String>,
    /// Sources of which the broker takes nothing; what they bring is withheld.
    #[serde(default)]
    pub(crate) refused_sources: Vec<String>,
    /// Topics of which nothing proves that the core takes what it acknowledges, and why; what goes there is withheld.
    #[serde(default)]
    pub(crate) unproven_topics: Vec<String>,
    /// What a metered link has used.
    #[serde(default)]
    pub(crate) metered: Option<MeteredStatus>,
    /// What the core has acknowledged by itself, where it settles.
    #[serde(default)]
    pub(crate) core: Option<CoreStatus>,
    /// What the core said of its own limits.
    #[serde(default)]
    pub(crate) learned: Option<LearnedLimits>,
}

/// What a core takes, by its own words; what is written holds, too, where it is less.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LearnedLimits {
    /// Bytes of the largest payload.
    pub(crate) max_payload: Option<usize>,
    /// Messages that may wait for their acknowledgement.
    pub(crate) max_inflight: Option<usize>,
    /// A mean.
    pub(crate) messages_per_second: Option<f64>,
    /// A mean, of values.
    pub(crate) points_per_second: Option<f64>,
}

/// A core that settles by itself (`settle = "core"`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CoreStatus {
    /// Samples and events that the broker has and the core has not acknowledged.
    pub(crate) waiting: u64,
    /// How many were sent again, since it did not.
    pub(crate) sent_again_total: u64,
    /// How long ago it acknowledged something, on this run.
    pub(crate) last_ack_s: Option<u64>,
}

/// A link that is paid by the byte.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct MeteredStatus {
    /// Bytes used today, both directions, headers estimated.
    pub(crate) used_today: u64,
    /// What the day has.
    pub(crate) bytes_per_day: Option<u64>,
    /// `everything`, `alarms` while samples wait, or `nothing`.
    pub(crate) sends: String,
    /// When the next batch of samples begins.
    pub(crate) next_batch_s: Option<u64>,
}

pub(super) fn problem(uplink: &UplinkStatus) -> Option<String> {
    let (name, error) = (&uplink.name, cause(&uplink.error));
    if uplink.state == "down" {
        return Some(format!("uplink {name} is down: {error}"));
    }
    if uplink.state == "waiting" {
        return Some(format!("uplink {name} waits: {error}"));
    }
    if let Some(error) = &uplink.error {
        return Some(format!("uplink {name}: {error}"));
    }
    if let Some(problem) = uplink.metered.as_ref().and_then(metered_problem) {
        return Some(format!("uplink {name}: {problem}"));
    }
    if let Some(first) = uplink.unproven_topics.first() {
        let more = match uplink.unproven_topics.len() - 1 {
            0 => String::new(),
            more => format!(" ({more} more topics are not proven)"),
        };
        return Some(format!("uplink {name}: {first}{more}"));
    }
    if !uplink.refused_subscriptions.is_empty() {
        let refused = uplink.refused_subscriptions.join(", ");
        return Some(format!(
            "uplink {name}: commands do not arrive, the broker refuses the subscription of {refused}"
        ));
    }
    let refused = uplink.refused_sources.join(", ");
    if refused.is_empty() && !uplink.warnings.is_empty() {
        return Some(format!("uplink {name}: {}", uplink.warnings.join("; ")));
    }
    (!refused.is_empty()).then(|| {
        format!("uplink {name}: the broker refuses everything of {refused}; may we publish to its topic?")
    })
}

/// What waits for the budget; samples that wait for their batch are no problem.
fn metered_problem(metered: &MeteredStatus) -> Option<String> {
    let used = show::bytes(metered.used_today);
    let all = show::bytes(metered.bytes_per_day?);
    match (metered.sends.as_str(), metered.next_batch_s) {
        ("nothing", _) => Some(format!(
            "all {all} of today are used; alarms wait, too, until midnight UTC"
        )),
        ("alarms", None) => Some(format!(
            "{used} of today's {all} are used; samples wait, alarms go on"
        )),
        _ => None,
    }
}
