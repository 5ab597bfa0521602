//! What is to be sent again: as a command of the cloud, a request to the local API, or typed.

use millrace_buffer::{Replay, Replayed, Span};
use millrace_tags::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A reply has to fit into a message: of what is sent again it lists this many ranges.
const SPANS_MAX: usize = 100;

/// Numbers of one line, or everything since a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayRequest {
    /// The uplink; all of them where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uplink: Option<String>,
    /// The device or model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// The stream, as messages name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<String>,
    /// The first number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first_seq: Option<u64>,
    /// The last number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_seq: Option<u64>,
    /// Unix milliseconds, or RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Value>,
}

impl ReplayRequest {
    /// What the buffer is asked for. The error is a sentence for whoever asks.
    pub(crate) fn replay(&self) -> Result<Replay, String> {
        let request = (&self.source, &self.stream, self.first_seq, self.last_seq);
        match (request, &self.since) {
            ((Some(source), Some(stream), Some(first_seq), Some(last_seq)), None) => {
                if first_seq == 0 || first_seq > last_seq {
                    return Err(format!(
                        "first_seq is {first_seq} and last_seq {last_seq}; numbers begin with 1 and ascend"
                    ));
                }
                let stream = stream.parse().map_err(|_| {
                    format!("stream is {stream}; a stream is named by 32 hex digits")
                })?;
                Ok(Replay::Numbers {
                    source: source.clone(),
                    stream,
                    first_seq,
                    last_seq,
                })
            }
            ((None, None, None, None), Some(since)) => time(since).map(Replay::Since),
            _ => Err(
                "expected {\"source\",\"stream\",\"first_seq\",\"last_seq\"} or {\"since\"}"
                    .to_owned(),
            ),
        }
    }
}

fn time(since: &Value) -> Result<Timestamp, String> {
    let parsed = match since {
        Value::Number(ms) => ms.as_i64().map(Timestamp::from_unix_ms),
        Value::String(text) => humantime::parse_rfc3339_weak(text)
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|time| i64::try_from(time.as_nanos()).ok())
            .map(Timestamp),
        _ => None,
    };
    parsed.ok_or_else(|| {
        format!(
            "since is {since}; expected Unix milliseconds, or a time such as 2026-11-21T08:00:00Z"
        )
    })
}

/// The outcome as a reply carries it: `left_off` ranges more were found than it lists.
pub(crate) fn brief(mut replayed: Replayed) -> Value {
    let mut left_off = 0;
    for to in replayed.uplinks.values_mut() {
        for spans in [&mut to.again, &mut to.waiting, &mut to.missing] {
            left_off += spans.len().saturating_sub(SPANS_MAX);
            Vec::<Span>::truncate(spans, SPANS_MAX);
        }
    }
    let mut brief = serde_json::json!(replayed);
    if left_off > 0 {
        brief["left_off"] = left_off.into();
    }
    brief
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replay(args: Value) -> Result<Replay, String> {
        let request: ReplayRequest = serde_json::from_value(args).map_err(|e| e.to_string())?;
        request.replay()
    }

    #[test]
    fn numbers_or_a_time_and_nothing_else() {
        let stream = "6f0c0000000000000000000000000001";
        let numbers = |first: u64, last: u64| {
            replay(
                json!({"source": "boiler", "stream": stream, "first_seq": first, "last_seq": last}),
            )
        };
        let Ok(Replay::Numbers {
            first_seq,
            last_seq,
            stream: parsed,
            ..
        }) = numbers(3, 9)
        else {
            panic!("{:?}", numbers(3, 9));
        };
        assert_eq!(
            (first_seq, last_seq, parsed.to_string()),
            (3, 9, stream.to_owned())
        );
        assert!(numbers(9, 3).unwrap_err().contains("ascend"));
        assert!(numbers(0, 3).is_err());
        let since = Ok(Replay::Since(Timestamp(1_763_690_000_000_000_000)));
        assert_eq!(replay(json!({"since": 1_763_690_000_000_i64})), since);
        assert_eq!(replay(json!({"since": "2025-11-21T01:53:20Z"})), since);
        for wrong in [
            json!({}),
            json!({"since": "yesterday"}),
            json!({"since": 5, "source": "boiler"}),
            json!({"source": "boiler", "first_seq": 3, "last_seq": 9}),
            json!({"source": "boiler", "stream": "x", "first_seq": 3, "last_seq": 9}),
            json!({"sinse": 5}),
        ] {
            assert!(replay(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
