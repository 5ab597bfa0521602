//! A foreign client at our simulated server: asyncua.

use std::path::Path;
use std::time::Duration;

use millrace_drivers::sim::opcua::{SimOpcua, SimOpcuaSettings, nodes_from_csv};
use serde_json::{Value, json};

use crate::session::PATIENCE;

const NODES: &str = "name,type,signal
Tick,i64,tick 20ms
Fixed,f32,constant 4.5
Pump,structure,constant 1450
";

/// Fewer than there are: a browse that loses a branch of types ends below.
const STANDARD_NODES: u64 = 600;

/// Nodes in one Read.
const READS_MAX: usize = 4321;

/// Values in one page of history.
const PAGE: usize = 7;

/// What asyncua found; `None` where there is no Python with it.
async fn found_by_asyncua(url: &str) -> Option<Value> {
    let Some(python) = std::env::var_os("MILLRACE_TEST_PYTHON") else {
        eprintln!("skipped: MILLRACE_TEST_PYTHON names no Python with asyncua");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/asyncua_client.py");
    let mut command = std::process::Command::new(python);
    command.arg(script).arg(url);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("a thread")
        .expect("the client starts");
    assert!(output.status.success(), "{output:?}");
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

fn numbers(values: &Value) -> Vec<i64> {
    let values = values.as_array().expect("a list").iter();
    values.filter_map(Value::as_i64).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_client_reads_subscribes_and_calls() {
    let nodes = nodes_from_csv(NODES.as_bytes()).expect("nodes");
    let mut settings = SimOpcuaSettings::new("127.0.0.1:0".parse().expect("address"), nodes);
    settings.interval = Duration::from_millis(20);
    settings.history = 100_000;
    settings.faults.history_max = Some(PAGE);
    settings.faults.reads_max = Some(READS_MAX);
    let sim = SimOpcua::start(settings).await.expect("server");
    let Some(found) = found_by_asyncua(&sim.url()).await else {
        return;
    };
    let server = &found["server"];
    let ours = [
        "http://opcfoundation.org/UA/",
        "urn:millrace:sim:server",
        "urn:millrace:sim",
    ];
    assert_eq!(server["namespaces"], json!(ours));
    assert_eq!(server["root"], json!(["Objects", "Types", "Views"]));
    assert!(server["nodes"].as_u64() > Some(STANDARD_NODES), "{server}");
    assert_eq!(server["state"], json!(0), "it runs");
    assert_eq!(server["runs"], json!(true));
    assert_eq!(server["most read"], json!(READS_MAX));
    assert_eq!(server["clock goes"], json!(true));
    assert_eq!(server["items"], json!(3), "the clock, and events two times");
    assert_eq!(server["resends"], "Good");
    assert_eq!(found["fixed"], json!(4.5));
    let children = json!(["Fixed", "Misbehave", "Multiply", "Pump", "Tick"]);
    assert_eq!(found["children"], children);
    let ticks = numbers(&found["ticks"]);
    assert_eq!(ticks.len(), 5);
    assert!(ticks.is_sorted_by(|a, b| a < b), "{ticks:?}");

    // Every page in its place, and every value that was recorded until then.
    let history = numbers(&found["history"]);
    assert!(history.len() > 2 * PAGE, "{history:?}");
    let recorded = sim.recorded("Tick");
    let expected = recorded.iter().map(|value| value.number as i64);
    assert_eq!(history, expected.take(history.len()).collect::<Vec<_>>());
    let newest = numbers(&found["newest"]);
    assert_eq!(newest.len(), 3);
    assert!(newest.is_sorted_by(|a, b| a > b), "{newest:?}");

    assert_eq!(found["product"], json!(42.0));
    assert_eq!(found["pump"], json!([true, 1450.0, 1450]));
    assert_eq!(found["written"], json!(5.5));
    assert_eq!(found["wrong type"], "BadTypeMismatch");
    assert_eq!(found["nowhere"], "BadNodeIdUnknown");
    assert_eq!(found["misbehave"], "BadInvalidArgument");
    let reordered = async {
        while sim.happened().get("reorder") != Some(&1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reordered = tokio::time::timeout(PATIENCE, reordered).await;
    reordered.expect("what a client asks for happens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_without_continuation_points_ends_with_its_first_page() {
    let nodes = nodes_from_csv(NODES.as_bytes()).expect("nodes");
    let mut settings = SimOpcuaSettings::new("127.0.0.1:0".parse().expect("address"), nodes);
    settings.interval = Duration::from_millis(20);
    settings.history = 1000;
    settings.faults.add("limit-history 3").expect("words");
    settings.faults.add("no-continuation").expect("words");
    let sim = SimOpcua::start(settings).await.expect("server");
    let Some(found) = found_by_asyncua(&sim.url()).await else {
        return;
    };
    assert_eq!(numbers(&found["history"]).len(), 3);
}
