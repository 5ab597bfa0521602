//! What a core says of its own limits, where it can be asked: ThingsBoard's `getSessionLimits`.
//!
//! A limit such as `200:1,6000:60,14000:3600` allows so many in so many seconds, over several spans at once. The
//! mean of the tightest holds for all of them.

use serde::Deserialize;
use serde_json::Value;

use super::Profile;
use crate::message::Message;

/// How the limits are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskLimits {
    /// By the client's call `getSessionLimits`.
    ThingsBoard,
}

impl AskLimits {
    pub(crate) const WORDS: [(&'static str, AskLimits); 1] =
        [("thingsboard", AskLimits::ThingsBoard)];
}

const THINGSBOARD_ASK: &str = "v1/devices/me/rpc/request/1";
const THINGSBOARD_FILTER: &str = "v1/devices/me/rpc/response/+";
const THINGSBOARD_ANSWER: &str = "v1/devices/me/rpc/response/1";

/// What a core said that it takes on one connection; `None`: it did not say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CoreLimits {
    /// The largest payload.
    pub max_payload: Option<usize>,
    /// Messages that may wait for their acknowledgement.
    pub max_inflight: Option<usize>,
    /// Messages a second, as a mean.
    pub messages_per_second: Option<f64>,
    /// Values a second, as a mean.
    pub points_per_second: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionLimits {
    max_payload_size: Option<usize>,
    max_inflight_messages: Option<usize>,
    rate_limits: Option<RateLimits>,
    /// Of a device that is a gateway; what it sends goes by these.
    gateway_rate_limits: Option<RateLimits>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RateLimits {
    messages: Option<String>,
    telemetry_messages: Option<String>,
    telemetry_data_points: Option<String>,
}

/// The mean of the tightest span of a limit; `None` where it limits nothing, or is not understood.
fn mean(limit: Option<&str>) -> Option<f64> {
    let spans = limit?.split(',').filter_map(|span| {
        let (count, seconds) = span.trim().split_once(':')?;
        let (count, seconds): (u32, u32) = (count.parse().ok()?, seconds.parse().ok()?);
        (count > 0 && seconds > 0).then(|| f64::from(count) / f64::from(seconds))
    });
    spans.min_by(f64::total_cmp)
}

impl CoreLimits {
    fn of_thingsboard(payload: &[u8]) -> Option<Self> {
        let said: Value = serde_json::from_slice(payload).ok()?;
        // An answer to something else, or a core that does not know the call.
        said.get("maxPayloadSize").or(said.get("rateLimits"))?;
        let said: SessionLimits = serde_json::from_value(said).ok()?;
        let rates = said.gateway_rate_limits.or(said.rate_limits);
        let rates = rates.unwrap_or_default();
        let messages = [&rates.messages, &rates.telemetry_messages];
        let messages = messages
            .into_iter()
            .filter_map(|limit| mean(limit.as_deref()));
        let some = |limit: Option<usize>| limit.filter(|limit| *limit > 0);
        Some(Self {
            max_payload: some(said.max_payload_size),
            max_inflight: some(said.max_inflight_messages),
            messages_per_second: messages.min_by(f64::total_cmp),
            points_per_second: mean(rates.telemetry_data_points.as_deref()),
        })
    }
}

impl Profile {
    /// The question for the core's limits, to be sent at each connect; `None` where it cannot be asked.
    pub fn ask_limits(&self) -> Option<Message> {
        match self.definition.ask_limits? {
            AskLimits::ThingsBoard => {
                let payload = r#"{"method":"getSessionLimits","params":{}}"#;
                Some(Message::new(THINGSBOARD_ASK, payload))
            }
        }
    }

    /// Where the answer comes.
    pub(super) fn limits_filter(&self) -> Option<&'static str> {
        match self.definition.ask_limits? {
            AskLimits::ThingsBoard => Some(THINGSBOARD_FILTER),
        }
    }

    /// The core's answer to [`Profile::ask_limits`], if this message is one that can be understood.
    pub fn told_limits(&self, topic: &str, payload: &[u8]) -> Option<CoreLimits> {
        match self.definition.ask_limits? {
            AskLimits::ThingsBoard if topic == THINGSBOARD_ANSWER => {
                CoreLimits::of_thingsboard(payload)
            }
            AskLimits::ThingsBoard => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_span_holds() {
        for (limit, expected) in [
            ("100:1", Some(100.0)),
            ("200:1,6000:60,14000:3600", Some(14_000.0 / 3_600.0)),
            ("10:1, 300:60", Some(5.0)),
            ("", None),
            ("0:1", None),
            ("5:0", None),
            ("many", None),
        ] {
            assert_eq!(mean(Some(limit)), expected, "{limit}");
        }
    }

    #[test]
    fn a_gateway_goes_by_the_limits_of_gateways() {
        let payload = br#"{"maxPayloadSize":32768,"maxInflightMessages":50,
            "rateLimits":{"messages":"10:1","telemetryMessages":"5:1","telemetryDataPoints":"20:1"},
            "gatewayRateLimits":{"messages":"1000:1,30000:60","telemetryMessages":"400:1","telemetryDataPoints":"2000:1"}}"#;
        let expected = CoreLimits {
            max_payload: Some(32_768),
            max_inflight: Some(50),
            messages_per_second: Some(400.0),
            points_per_second: Some(2000.0),
        };
        assert_eq!(CoreLimits::of_thingsboard(payload), Some(expected));
        let device = br#"{"rateLimits":{"messages":"10:1"}}"#;
        let limits = CoreLimits::of_thingsboard(device).unwrap();
        assert_eq!(
            (limits.messages_per_second, limits.points_per_second),
            (Some(10.0), None)
        );
        for other in [
            &b"{}"[..],
            b"[]",
            b"null",
            b"{\"error\":\"unknown method\"}",
            b"\xff",
        ] {
            assert_eq!(CoreLimits::of_thingsboard(other), None);
        }
    }

    #[test]
    fn thingsboard_is_asked_and_others_are_not() {
        let of = |name: &str| {
            let definition = super::super::find(name, None).unwrap();
            Profile::new(
                std::sync::Arc::new(definition),
                "gw",
                &Default::default(),
                &[],
            )
            .unwrap()
        };
        let profile = of("thingsboard");
        let ask = profile.ask_limits().unwrap();
        assert_eq!(ask.topic, "v1/devices/me/rpc/request/1");
        assert!(
            profile
                .subscriptions()
                .contains(&THINGSBOARD_FILTER.to_owned())
        );
        let answer = br#"{"maxPayloadSize":1024}"#;
        assert!(profile.told_limits(THINGSBOARD_ANSWER, answer).is_some());
        assert!(
            profile
                .told_limits("v1/devices/me/rpc/response/2", answer)
                .is_none()
        );
        assert_eq!(of("generic").ask_limits(), None);
        assert_eq!(of("generic").told_limits(THINGSBOARD_ANSWER, answer), None);
    }
}
