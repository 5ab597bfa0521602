//! What every profile promises of any parcel: all of it, in order, in messages that are small enough, and again as
//! it was where the format is JSON.

use proptest::prelude::*;
use serde_json::Value as Json;

use super::tests::{any_sample, example_vars, parcel};
use super::*;
use millrace_tags::{Sample, Value};

fn profile(name: &str) -> Profile {
    let definition = Arc::new(find(name, None).unwrap());
    let vars = example_vars(&definition);
    Profile::new(definition, "gw-1", &vars, &[]).unwrap()
}

fn payloads(profile: &Profile, parcel: &Parcel, limit: usize) -> Vec<Json> {
    let messages = profile.encode_parcel(parcel, limit).unwrap();
    let parsed = messages.iter().map(|message| {
        assert!(message.wire_bytes() <= limit, "{}", message.wire_bytes());
        serde_json::from_slice(&message.payload).unwrap()
    });
    parsed.collect()
}

/// A value as JSON has it, where all codecs agree on it; `None` where a sample has nothing to show.
fn worth(sample: &Sample) -> Option<Json> {
    Some(match sample.value.as_ref()? {
        Value::Bool(flag) => Json::from(*flag),
        Value::I64(number) => Json::from(*number),
        Value::U64(number) => Json::from(*number),
        Value::F64(number) if number.is_finite() => Json::from(*number),
        Value::F32(number) if number.is_finite() => number.to_string().parse().unwrap(),
        Value::F64(_) | Value::F32(_) => return None,
        Value::Text(text) => Json::from(&**text),
        Value::Bytes(bytes) => Json::from(bytes.to_vec()),
        Value::Json(json) => serde_json::from_str(json).unwrap(),
    })
}

/// Whether `got` says what was sampled: a float of 32 bits exactly, one of 64 bits but for the last bit of the test's own
/// reader.
fn same(sample: &Sample, got: &Json, expected: &Json) -> bool {
    match (&sample.value, got.as_f64(), expected.as_f64()) {
        (Some(Value::F32(number)), ..) => got.to_string().parse() == Ok(*number),
        (Some(Value::F64(_)), Some(got), Some(expected)) => {
            (got - expected).abs() <= expected.abs() * 1e-15 + f64::MIN_POSITIVE
        }
        _ => got == expected,
    }
}

fn base64_bytes(text: &Json, engine: &impl base64::Engine) -> Json {
    Json::from(engine.decode(text.as_str().unwrap()).unwrap())
}

proptest! {
    #[test]
    fn senml_comes_back(
        samples in prop::collection::vec(any_sample(), 1..60),
        limit in 1000usize..8_000,
    ) {
        let parcel = parcel(&["a", "b", "c"], samples.clone());
        let packs = payloads(&profile("mainflux"), &parcel, limit);
        let mut records = packs.iter().flat_map(|pack| pack.as_array().unwrap());
        prop_assert!(packs.iter().all(|pack| pack[0]["bn"] == "boiler"));
        for sample in &samples {
            let name = format!(":{}", ["a", "b", "c"][sample.tag.0 as usize]);
            if let Some(expected) = worth(sample) {
                let record = records.next().unwrap();
                prop_assert_eq!(&record["n"], &name);
                let got = match sample.value.as_ref().unwrap() {
                    Value::Bool(_) => record["vb"].clone(),
                    Value::Bytes(_) => base64_bytes(
                        &record["vd"],
                        &base64::engine::general_purpose::URL_SAFE_NO_PAD,
                    ),
                    Value::I64(_) | Value::U64(_) if record["v"].is_null() => {
                        record["vs"].as_str().unwrap().parse().unwrap()
                    }
                    Value::Text(_) => record["vs"].clone(),
                    _ => record["v"].clone(),
                };
                prop_assert!(same(sample, &got, &expected), "{} as {}", expected, record);
            }
            if !sample.quality.is_good() || worth(sample).is_none() {
                let record = records.next().unwrap();
                let remark = format!("{name}:q");
                prop_assert_eq!(&record["n"], &remark);
            }
        }
        prop_assert!(records.next().is_none());
    }

    #[test]
    fn thingsboard_comes_back(
        samples in prop::collection::vec(any_sample(), 1..60),
        limit in 1000usize..8_000,
    ) {
        let parcel = parcel(&["a", "b", "c"], samples.clone());
        let messages = payloads(&profile("thingsboard"), &parcel, limit);
        let mut points = messages.iter().flat_map(|message| message["boiler"].as_array().unwrap());
        let mut values = points.next().unwrap()["values"].as_object().unwrap().clone();
        for sample in &samples {
            let name = ["a", "b", "c"][sample.tag.0 as usize];
            while values.is_empty() {
                values = points.next().unwrap()["values"].as_object().unwrap().clone();
            }
            if let Some(expected) = worth(sample) {
                let got = values.remove(name).unwrap();
                let got = match sample.value.as_ref().unwrap() {
                    Value::Bytes(_) => base64_bytes(&got, &base64::engine::general_purpose::STANDARD),
                    Value::U64(_) if got.is_string() => got.as_str().unwrap().parse().unwrap(),
                    _ => got,
                };
                prop_assert!(same(sample, &got, &expected), "{} as {}", expected, got);
            }
            if !sample.quality.is_good() || worth(sample).is_none() {
                let remark = values.remove(&format!("{name}:q"));
                prop_assert!(remark.unwrap().is_string());
            }
        }
        prop_assert!(values.is_empty() && points.next().is_none());
    }

    #[test]
    fn every_profile_keeps_its_limits_whatever_comes(
        samples in prop::collection::vec(any_sample(), 1..40),
        names in prop::collection::vec("\\PC{1,12}", 3),
        source in "[a-z0-9._-]{1,8}(/[a-z0-9_-]{1,8})?",
        limit in 2_000usize..8_000,
    ) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for name in builtin_names().filter(|name| *name != "sparkplug-b") {
            let profile = profile(name);
            let mut parcel = parcel(&names, samples.clone());
            parcel.source = source.as_str().into();
            let messages = match profile.encode_parcel(&parcel, limit) {
                Ok(messages) => messages,
                // A source of many levels is too deep for some.
                Err(EncodeError::Topic { .. }) => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            for message in &messages {
                prop_assert!(message.wire_bytes() <= limit, "{}", name);
                prop_assert!(!message.topic.contains(['+', '#', '\0']), "{}", message.topic);
            }
        }
    }
}
