//! Versions of models: what is good comes onto the shelf and runs, what is bad is refused by name, and the version that runs goes
//! on scoring.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::bundle::{Bundle, Maker, sha256};
use millrace_tests::onnx::Graph;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::{Value, json};

use crate::downloads::Scene;
use crate::models::assert_whole;

/// What an examination may take: little, so that the test is short; a good model needs a tenth of it.
const TIME_S: u64 = 2;

/// Two makers, one of them revoked, one unknown; a configured bundle that runs.
struct Works {
    scene: Scene,
    subscriber: Subscriber,
    maker: Maker,
    revoked: Maker,
    stranger: Maker,
}

fn good() -> Graph {
    Graph::default()
        .integers("axes", &[0, 1, 2])
        .integers("one", &[1])
        .node("ReduceSum", &["window", "axes"], "sum")
        .node("Reshape", &["sum", "one"], "score")
}

const WINDOW: [u64; 3] = [1, 3, 2];

impl Works {
    fn start() -> Result<Works> {
        let directory = tempfile::tempdir()?;
        let place = directory.path();
        let [maker, revoked, stranger] =
            ["maker", "revoked", "stranger"].map(|name| Maker::new(place, name));
        let (maker, revoked) = (maker?, revoked?);
        let configured = Bundle::write(&place.join("configured"), "1.0.0", &good().file(&WINDOW))?;
        // On a busy machine a poll may be late: values are held for long, and count.
        configured.edit(
            "max_gap = \"2s\"",
            "max_gap = \"5m\"\nmin_good_share = 0.01",
        )?;
        let more = format!(
            "[local]\ncommands = [\"model.install\", \"model.promote\", \"model.rollback\"]\nmodel_keys = [\"{}\"]\n\
             revoked_model_keys = [\"{}\"]\nmodel_time = \"{TIME_S}s\"\nmodel_memory = \"1GiB\"\n\n\
             [[model]]\nname = \"watch\"\nbundle = \"configured\"\n[model.inputs]\na = \"pump/t0\"\nb = \"pump/t0\"\n",
            maker.public()?,
            revoked.public()?
        );
        let scene = Scene::start_in(directory, &more)?;
        let works = Works {
            subscriber: Subscriber::start(scene.broker.port)?,
            scene,
            maker,
            revoked,
            stranger: stranger?,
        };
        works.runs("1.0.0")?;
        Ok(works)
    }

    fn gateway(&self) -> &Gateway {
        &self.scene.gateway
    }

    /// A bundle where the server of files finds it.
    fn bundle(&self, name: &str, version: &str, model: &[u8]) -> Result<Bundle> {
        Bundle::write(&self.gateway().path("files").join(name), version, model)
    }

    fn model(&self) -> Result<Value> {
        Ok(self.gateway().json(&["status"])?["models"][0].clone())
    }

    fn version(&self) -> Result<String> {
        Ok(self.model()?["version"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// Waits until this version has scored further windows.
    fn runs(&self, version: &str) -> Result<()> {
        let windows = |model: &Value| {
            let runs = model["version"] == version && model["state"] == "running";
            runs.then(|| model["windows_total"].as_u64().unwrap_or(0))
        };
        let mut before = None;
        wait_for(&format!("windows of {version}"), STEP, || {
            let now = windows(&self.model().ok()?)?;
            (now > *before.get_or_insert(now)).then_some(())
        })
        .with_context(|| format!("{}\n{:?}", self.gateway().log(), self.model()))
    }

    fn by_hand(&self, bundle: &Path) -> Result<std::result::Result<String, String>> {
        let path = bundle.display().to_string();
        let output = self.gateway().cli(&["model", "install", &path])?;
        Ok(match output.status.success() {
            true => Ok(String::from_utf8(output.stdout)?),
            false => Err(String::from_utf8(output.stderr)?),
        })
    }

    fn by_command(&self, id: &str, tar: &Path) -> Result<Value> {
        let name = tar.file_name().context("a file")?.to_string_lossy();
        let url = self.scene.url(&format!("/{name}"));
        let args = json!({"name": "watch", "url": url, "sha256": sha256(tar)?});
        self.scene.outcome(id, "model.install", &args)
    }
}

/// Bundles that are bad, each with what is said of it; signed by the maker unless that is what is wrong.
fn bad_bundles(works: &Works) -> Result<Vec<(&'static str, PathBuf, &'static str)>> {
    let mut bad = Vec::new();
    let mut add = |bundle: &Bundle, name, said| -> Result<()> {
        bad.push((name, bundle.pack()?, said));
        Ok(())
    };
    let signed = |name: &str, model: &[u8]| -> Result<Bundle> {
        let bundle = works.bundle(name, "2.0.0", model)?;
        works.maker.sign(&bundle)?;
        Ok(bundle)
    };
    let whole = good().file(&WINDOW);

    let shape = signed("shape", &good().file(&[1, 4, 2]))?;
    add(
        &shape,
        "shape",
        "the graph's input has the shape [1, 4, 2]; model.toml makes it [1, 3, 2]",
    )?;

    let truncated = signed("truncated", &whole[..whole.len() - 20])?;
    add(&truncated, "truncated", "not a whole ONNX model")?;

    let nan = Graph::default()
        .integers("axes", &[0, 1, 2])
        .integers("one", &[1])
        .node("ReduceSum", &["window", "axes"], "sum")
        .node("Sub", &["sum", "sum"], "zero")
        .node("Div", &["zero", "zero"], "nothing")
        .node("Reshape", &["nothing", "one"], "score");
    add(
        &signed("nan", &nan.file(&WINDOW))?,
        "nan",
        "not a finite number",
    )?;

    add(&signed("endless", &endless())?, "endless", "model_time")?;

    let large = Graph::default()
        .integers("axes", &[0, 1, 2])
        .integers("one", &[1])
        .integers("large", &[1, 100_000, 100_000])
        .node("ReduceSum", &["window", "axes"], "sum")
        .node("Expand", &["sum", "large"], "much")
        .node("ReduceSum", &["much", "axes"], "all")
        .node("Reshape", &["all", "one"], "score");
    add(
        &signed("large", &large.file(&WINDOW))?,
        "large",
        "asks for too much memory",
    )?;

    let unknown = Graph::default()
        .integers("axes", &[0, 1, 2])
        .integers("one", &[1])
        .node("ReduceSum", &["window", "axes"], "sum")
        .node("NoSuchThing", &["sum"], "strange")
        .node("Reshape", &["strange", "one"], "score");
    let unknown = signed("unknown", &unknown.file(&WINDOW))?;
    add(&unknown, "unknown", "NoSuchThing")?;

    let wrong = works.bundle("wrong", "2.0.0", &whole)?;
    works.stranger.sign(&wrong)?;
    add(&wrong, "wrong", "fits none of the 1 key(s)")?;

    let revoked = works.bundle("revoked", "2.0.0", &whole)?;
    works.revoked.sign(&revoked)?;
    add(&revoked, "revoked", "signed by the revoked key")?;

    let changed = signed("changed", &whole)?;
    changed.edit("value = 1e12", "value = 1e13")?;
    add(&changed, "changed", "model.toml was changed afterwards")?;

    let lower = works.bundle("lower", "0.9.0", &whole)?;
    works.maker.sign(&lower)?;
    add(&lower, "lower", "version 0.9.0 is below 1.0.0, which runs")?;
    Ok(bad)
}

/// Products of large matrices: what the engine does not refuse to begin with, and does not end with in time.
fn endless() -> Vec<u8> {
    const PRODUCTS: usize = 13;
    let mut graph = Graph::default()
        .integers("axes", &[0, 1, 2])
        .integers("one", &[1])
        .integers("square", &[1, 2048, 2048])
        .node("ReduceSum", &["window", "axes"], "sum")
        .node("Expand", &["sum", "square"], "wide")
        .node("Exp", &["wide"], "p0");
    for step in 0..PRODUCTS {
        let (from, to) = (format!("p{step}"), format!("p{}", step + 1));
        graph = graph.node("MatMul", &[&from, "p0"], &to);
    }
    graph
        .node("ReduceSum", &[&format!("p{PRODUCTS}"), "axes"], "all")
        .node("Reshape", &["all", "one"], "score")
        .file(&WINDOW)
}

/// Tensors of 64 MB that are all needed until the end.
fn greedy() -> Vec<u8> {
    Graph::default()
        .integers("axes", &[0, 1, 2])
        .integers("one", &[1])
        .integers("square", &[1, 4000, 4000])
        .node("ReduceSum", &["window", "axes"], "sum")
        .node("Expand", &["sum", "square"], "wide")
        .node("Exp", &["wide"], "a")
        .node("MatMul", &["a", "wide"], "b")
        .node("ReduceSum", &["b", "axes"], "all")
        .node("Reshape", &["all", "one"], "score")
        .file(&WINDOW)
}

#[test]
fn a_bad_model_is_refused_by_name_and_the_one_that_runs_goes_on() -> Result<()> {
    let works = Works::start()?;
    for (name, tar, said) in bad_bundles(&works)? {
        let reply = works.by_command(name, &tar)?;
        assert_eq!(reply["status"], "failed", "{name}: {reply}");
        assert!(
            reply["error"]
                .to_string()
                .replace("\\\"", "\"")
                .contains(said),
            "{name}: {reply}"
        );
        let refused = works.by_hand(&tar)?;
        let text = refused
            .err()
            .with_context(|| format!("{name} was installed"))?;
        assert!(text.contains(said), "{name}: {text}");
        assert_eq!(works.version()?, "1.0.0", "{name}");
    }
    // What is damaged on its way; only a command looks at the digest of the whole file.
    let whole = works.bundle("whole", "2.0.0", &good().file(&WINDOW))?;
    works.maker.sign(&whole)?;
    let bytes = std::fs::read(whole.pack()?)?;
    for (name, damaged) in [
        ("flipped", {
            let mut flipped = bytes.clone();
            let at = find(&flipped, b"ReduceSum").context("an operator")?;
            flipped[at] ^= 0x40;
            flipped
        }),
        // The second half of a tar may be its end marks alone.
        ("cut", bytes[..bytes.len() / 8].to_vec()),
        ("huge", vec![0; (64 << 20) + 1]),
    ] {
        let tar = works.gateway().path("files").join(format!("{name}.tar"));
        std::fs::write(&tar, damaged)?;
        let reply = works.by_command(name, &tar)?;
        assert_eq!(reply["status"], "failed", "{name}: {reply}");
        assert!(works.by_hand(&tar)?.is_err(), "{name}");
    }
    // Only commands want a signature.
    let unsigned = works.bundle("unsigned", "2.0.0", &good().file(&WINDOW))?;
    let reply = works.by_command("unsigned", &unsigned.pack()?)?;
    assert!(
        reply["error"].to_string().contains("it is not signed"),
        "{reply}"
    );
    works.runs("1.0.0")?;
    let rows = works.gateway().json(&["model", "list"])?;
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    // All the while it told each of its windows.
    let windows = assert_whole(&works.subscriber.stop(), "watch")?;
    ensure!(windows > 10, "{windows} windows");
    Ok(())
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[test]
fn versions_are_installed_promoted_and_gone_back_from() -> Result<()> {
    let mut works = Works::start()?;
    let next = works.bundle("next", "1.1.0", &good().file(&WINDOW))?;
    works.maker.sign(&next)?;
    let reply = works.by_command("install", &next.pack()?)?;
    assert_eq!(reply["result"]["version"], "1.1.0", "{reply}");
    let signature = reply["result"]["signature"].as_str().unwrap_or_default();
    assert!(signature.starts_with("ed25519:"), "{reply}");
    works.runs("1.0.0")?;
    let promote = |id: &str, version: &str| {
        let args = json!({"name": "watch", "version": version});
        works.scene.outcome(id, "model.promote", &args)
    };
    let unknown = promote("unknown", "1.2.3")?;
    assert!(
        unknown["error"]
            .to_string()
            .contains("there are: 1.0.0, 1.1.0"),
        "{unknown}"
    );
    assert_eq!(promote("promote", "1.1.0")?["result"]["version"], "1.1.0");
    works.runs("1.1.0")?;
    let lower = promote("lower", "1.0.0")?;
    assert!(
        lower["error"].to_string().contains("is below 1.1.0"),
        "{lower}"
    );

    works.scene.gateway.terminate()?;
    works.scene.gateway.start()?;
    works.runs("1.1.0")?;

    // By hand: unsigned, at once, and back.
    let third = works.bundle("third", "1.2.0", &good().file(&WINDOW))?;
    let path = third.path().display().to_string();
    let installed = works
        .gateway()
        .json(&["model", "install", &path, "--promote"])?;
    assert_eq!(installed["signature"], "unsigned", "{installed}");
    works.runs("1.2.0")?;
    works.gateway().json(&["model", "rollback"])?;
    works.runs("1.1.0")?;
    let back = works.scene.outcome("back", "model.rollback", &json!({}))?;
    assert_eq!(back["result"]["version"], "1.0.0", "{back}");
    works.runs("1.0.0")?;
    let kept = works.gateway().cli(&["model", "remove", "1.0.0"])?;
    assert!(String::from_utf8(kept.stderr)?.contains("it runs"));
    works.gateway().json(&["model", "remove", "1.2.0"])?;
    let rows = works.gateway().json(&["model", "list"])?;
    let parts: Vec<String> = rows
        .as_array()
        .context("rows")?
        .iter()
        .map(|row| format!("{} {}", row["version"], row["state"]).replace('"', ""))
        .collect();
    assert_eq!(parts, ["1.0.0 active", "1.1.0 installed"], "{rows}");
    works.scene.gateway.terminate()?;
    let offline = works
        .gateway()
        .json(&["model", "list", "--config", "millrace.toml"])?;
    assert_eq!(offline, rows, "the shelf itself says the same");
    Ok(())
}

/// A gateway that is configured with a model that is not admitted: what is said, and whether it polls all the same.
fn configured(model: &[u8], limits: &str, said: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    Bundle::write(&directory.path().join("bad"), "1.0.0", model)?;
    let more = format!(
        "[local]\n{limits}\n[[model]]\nname = \"watch\"\nbundle = \"bad\"\n\
         [model.inputs]\na = \"pump/t0\"\nb = \"pump/t0\"\n"
    );
    let scene = Scene::start_in(directory, &more)?;
    let status = wait_for("the end of the examination", 3 * STEP, || {
        let status = scene.gateway.json(&["status"]).ok()?;
        (status["models"][0]["state"] == "failed").then_some(status)
    })?;
    let error = status["models"][0]["error"].to_string();
    assert!(error.contains(said), "{status}");
    ensure!(status["devices"][0]["tags_good"] == 1, "{status}");
    Ok(())
}

#[test]
fn a_configured_model_that_never_ends_leaves_polling_alone() -> Result<()> {
    let limits = format!("model_time = \"{TIME_S}s\"\nmodel_memory = \"1GiB\"");
    configured(&endless(), &limits, "model_time")
}

#[test]
fn a_configured_model_that_takes_all_memory_leaves_polling_alone() -> Result<()> {
    configured(&greedy(), "model_memory = \"64MiB\"", "model_memory")
}

#[test]
fn a_bundle_is_drafted_filled_in_signed_and_installed() -> Result<()> {
    let works = Works::start()?;
    let gateway = works.gateway();
    std::fs::create_dir(gateway.path("pump"))?;
    std::fs::write(gateway.path("pump/model.onnx"), good().file(&WINDOW))?;
    let drafted = gateway.json(&["model", "new", "pump/model.onnx"])?;
    ensure!(
        drafted["open"]
            .as_array()
            .is_some_and(|open| !open.is_empty()),
        "{drafted}"
    );
    let early = gateway.cli(&["model", "install", "pump"])?;
    let text = String::from_utf8(early.stderr)?;
    assert!(text.contains("window.grid is missing"), "{text}");
    let manifest = gateway.path("pump/model.toml");
    let draft = std::fs::read_to_string(&manifest)?;
    let filled = draft
        .replacen("role = \"\"", "role = \"a\"", 1)
        .replacen("role = \"\"", "role = \"b\"", 1)
        .replace("# FILL IN: ", "")
        .replace("1.0.0", "1.5.0");
    std::fs::write(&manifest, filled)?;
    let signed = gateway.json(&["model", "sign", "pump", "--key", "mine.pem", "--new-key"])?;
    // Only the maker of Works is trusted.
    let refused = works.by_hand(&gateway.path("pump"))?;
    assert!(refused.is_err_and(|text| text.contains("fits none")));
    gateway.json(&["model", "sign", "pump", "--key", "maker.pem"])?;
    let installed = gateway.json(&["model", "install", "pump"])?;
    assert_eq!(installed["digest"], signed["digest"], "{installed}");
    assert_ne!(installed["signature"], signed["fingerprint"], "{installed}");
    // Exported once more: the digest in the manifest is that of the old file.
    std::fs::write(
        gateway.path("pump/model.onnx"),
        good().node("Abs", &["sum"], "x").file(&WINDOW),
    )?;
    assert!(
        gateway
            .json(&["model", "sign", "pump", "--key", "mine.pem"])
            .is_err()
    );
    gateway.json(&["model", "new", "pump/model.onnx", "--update"])?;
    gateway.json(&["model", "sign", "pump", "--key", "mine.pem"])?;
    Ok(())
}
