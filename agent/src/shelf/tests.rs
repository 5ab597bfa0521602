use std::collections::BTreeMap;
use std::fs;

use millrace_inference::{Bundle, SigningKey};

use super::*;

const PUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/pump-anomaly");

/// A bundle of one version, in a directory that a configuration may name.
fn bundle(version: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["model.onnx", "golden.json"] {
        fs::copy(Path::new(PUMP).join(name), dir.path().join(name)).unwrap();
    }
    let text = fs::read_to_string(Path::new(PUMP).join("model.toml")).unwrap();
    let own = Bundle::load(Path::new(PUMP)).unwrap().version().to_owned();
    let text = text.replace(
        &format!("version = \"{own}\""),
        &format!("version = \"{version}\""),
    );
    fs::write(dir.path().join("model.toml"), text).unwrap();
    dir
}

fn model(bundle: &Path) -> config::Model {
    let roles = Bundle::load(Path::new(PUMP)).unwrap();
    let roles = roles.inputs().iter().map(|input| input.role.clone());
    config::Model {
        name: "hall/pump".into(),
        bundle: bundle.to_owned(),
        detector: None,
        inputs: roles.map(|role| (role, "a/b".to_owned())).collect(),
        bounds: crate::model::Bounds::default(),
    }
}

fn terms() -> Terms {
    Terms {
        policy: ModelPolicy::default(),
        signed: false,
        older: false,
        from: "uid 0".to_owned(),
    }
}

fn install(shelf: &Shelf, bundle: &Path, terms: &Terms) -> Result<Version, ShelfError> {
    let arrival = shelf.arriving().unwrap();
    fs::write(arrival.path(), Bundle::pack(bundle).unwrap()).unwrap();
    shelf.admit(&model(bundle), arrival.path(), terms)
}

fn to(version: &str) -> Step {
    Step::To {
        version: version.to_owned(),
        older: false,
    }
}

/// A shelf on which 1.0.0 was configured, with 1.1.0 and 1.2.0 beside it.
fn stocked(dir: &Path) -> (Shelf, config::Model, tempfile::TempDir) {
    let configured = bundle("1.0.0");
    let model = model(configured.path());
    let shelf = Shelf::of(dir, &model.name);
    let settled = shelf.settle(&model, &ModelPolicy::default());
    assert_eq!(settled.trouble, Vec::<String>::new());
    for version in ["1.1.0", "1.2.0"] {
        let installed = install(&shelf, bundle(version).path(), &terms()).unwrap();
        assert_eq!(installed.version, version);
        assert!(installed.probe.windows > 0, "{installed:?}");
    }
    (shelf, model, configured)
}

fn running(shelf: &Shelf) -> String {
    shelf.state().unwrap().running().unwrap().version.clone()
}

/// The version that a start would begin with.
fn started(shelf: &Shelf, model: &config::Model) -> (String, Vec<String>) {
    let settled = shelf.settle(model, &ModelPolicy::default());
    let mut trouble = settled.trouble;
    for (candidate, _) in settled.candidates {
        match Bundle::load_trusted(&candidate, &settled.trust) {
            Ok(bundle) => return (bundle.version().to_owned(), trouble),
            Err(error) => trouble.push(error.to_string()),
        }
    }
    ("none".to_owned(), trouble)
}

#[test]
fn a_configured_bundle_is_promoted_once_and_another_one_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (shelf, model, _configured) = stocked(dir.path());
    assert_eq!(running(&shelf), "1.0.0", "installed is not promoted");
    shelf.step(&to("1.1.0")).unwrap();
    assert_eq!(started(&shelf, &model), ("1.1.0".to_owned(), vec![]));
    let other = bundle("0.9.0");
    let changed = config::Model {
        bundle: other.path().to_owned(),
        ..model.clone()
    };
    assert_eq!(started(&shelf, &changed), ("0.9.0".to_owned(), vec![]));
    shelf.step(&Step::Back).unwrap();
    assert_eq!(started(&shelf, &changed), ("1.1.0".to_owned(), vec![]));
    // Where the configured bundle is gone the shelf has what it needs.
    drop(other);
    let (version, trouble) = started(&shelf, &changed);
    assert_eq!(
        (version.as_str(), trouble.len()),
        ("1.1.0", 1),
        "{trouble:?}"
    );
}

#[test]
fn one_goes_back_as_far_as_one_came_and_what_did_not_work_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let (shelf, ..) = stocked(dir.path());
    shelf.step(&to("1.1.0")).unwrap();
    let before = shelf.step(&to("1.2.0")).unwrap();
    assert_eq!(running(&shelf), "1.2.0");
    shelf.restore(before).unwrap();
    assert_eq!(running(&shelf), "1.1.0");
    shelf.step(&to("1.2.0")).unwrap();
    for version in ["1.1.0", "1.0.0"] {
        shelf.step(&Step::Back).unwrap();
        assert_eq!(running(&shelf), version);
    }
    // Taken back after its trial; unless something else runs by then.
    shelf.step(&to("1.1.0")).unwrap();
    let digest = |version: &str| Some(shelf.state().unwrap().find(version).unwrap().digest.clone());
    let (failed, goes_on) = (digest("1.1.0"), digest("1.0.0"));
    for _ in 0..2 {
        shelf
            .take_back(failed.as_deref(), goes_on.as_deref())
            .unwrap();
        assert_eq!(running(&shelf), "1.0.0");
    }
    let error = shelf.step(&Step::Back).unwrap_err();
    assert!(error.contains("none to go back to"), "{error}");
    let error = shelf.step(&to("1.3.0")).unwrap_err();
    assert!(error.contains("there are: 1.0.0, 1.1.0, 1.2.0"), "{error}");
}

#[test]
fn a_lower_version_needs_leave_and_a_version_is_never_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let (shelf, ..) = stocked(dir.path());
    shelf.step(&to("1.2.0")).unwrap();
    for error in [
        shelf.step(&to("1.1.0")).unwrap_err(),
        install(&shelf, bundle("1.1.9").path(), &terms())
            .unwrap_err()
            .to_string(),
    ] {
        assert!(
            error.contains("is below 1.2.0, which runs; --allow-downgrade"),
            "{error}"
        );
    }
    let older = Terms {
        older: true,
        ..terms()
    };
    install(&shelf, bundle("1.1.9").path(), &older).unwrap();
    let leave = Step::To {
        version: "1.1.9".to_owned(),
        older: true,
    };
    shelf.step(&leave).unwrap();
    let changed = bundle("1.2.0");
    let manifest = changed.path().join("model.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("value = 1.63", "value = 99.0")).unwrap();
    let error = install(&shelf, changed.path(), &older).unwrap_err();
    assert!(error.to_string().contains("another content"), "{error}");
}

#[test]
fn what_runs_and_what_ran_before_it_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (shelf, ..) = stocked(dir.path());
    shelf.step(&to("1.2.0")).unwrap();
    for (version, why) in [("1.2.0", "it runs"), ("1.0.0", "the one to go back to")] {
        let error = shelf.remove(version).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let file = shelf.file(&shelf.state().unwrap().find("1.1.0").unwrap().digest);
    assert_eq!(shelf.remove("1.1.0").as_deref(), Ok("1.1.0"));
    assert!(!file.exists());
}

#[test]
fn a_shelf_has_room_for_so_many_and_keeps_what_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let (shelf, ..) = stocked(dir.path());
    shelf.step(&to("1.1.0")).unwrap();
    let more = 3..VERSIONS_MAX + 1;
    for number in more {
        install(&shelf, bundle(&format!("1.{number}.0")).path(), &terms()).unwrap();
    }
    let state = shelf.state().unwrap();
    let kept: Vec<&str> = state
        .versions
        .iter()
        .map(|it| it.version.as_str())
        .collect();
    assert_eq!(kept.len(), VERSIONS_MAX);
    assert_eq!(
        &kept[..3],
        ["1.0.0", "1.1.0", "1.3.0"],
        "1.2.0 was not needed"
    );
    let tars = fs::read_dir(&shelf.directory).unwrap();
    assert_eq!(tars.count(), VERSIONS_MAX + 1);
}

#[test]
fn a_damaged_file_is_named_and_the_version_before_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (shelf, model, _configured) = stocked(dir.path());
    shelf.step(&to("1.2.0")).unwrap();
    let file = shelf.file(&shelf.state().unwrap().active.unwrap());
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let (version, trouble) = started(&shelf, &model);
    assert_eq!(version, "1.0.0");
    assert!(trouble[0].contains("SHA-256"), "{trouble:?}");
    assert!(trouble[0].contains(".tar"), "{trouble:?}");
    fs::write(shelf.directory.join(STATE_FILE), b"{\"format\":").unwrap();
    let (version, trouble) = started(&shelf, &model);
    assert_eq!(version, "1.0.0");
    assert!(trouble[0].contains("damaged"), "{trouble:?}");
    assert_eq!(started(&shelf, &model), ("1.0.0".to_owned(), vec![]));
}

#[test]
fn only_what_a_trusted_key_signed_where_that_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (shelf, model, _configured) = stocked(dir.path());
    let new_key = || SigningKey::parse(&SigningKey::generate().unwrap()).unwrap();
    let (maker, stranger) = (new_key(), new_key());
    let next = bundle("2.0.0");
    let sign = |key: &SigningKey| {
        let manifest = fs::read(next.path().join("model.toml")).unwrap();
        fs::write(next.path().join("model.sig"), key.sign(&manifest)).unwrap();
    };
    let policy = |key: &SigningKey, revoked: bool| {
        let keys = format!("[\"{}\"]", key.public().to_base64());
        let line = if revoked {
            "revoked_model_keys"
        } else {
            "model_keys"
        };
        let text = format!("[gateway]\nid = \"g\"\n[local]\n{line} = {keys}\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let loaded = config::load(Some(file.path()), Some(dir.path())).unwrap();
        loaded.config.local.models
    };
    let by_command = |policy: ModelPolicy| Terms {
        policy,
        signed: true,
        ..terms()
    };
    let refusal = |terms: &Terms| install(&shelf, next.path(), terms).unwrap_err().to_string();
    let trusted = by_command(policy(&maker, false));
    assert!(refusal(&trusted).contains("not signed"));
    sign(&stranger);
    assert!(refusal(&trusted).contains("fits none"));
    assert!(refusal(&by_command(ModelPolicy::default())).contains("model_keys has no key"));
    sign(&maker);
    let installed = install(&shelf, next.path(), &trusted).unwrap();
    assert_eq!(installed.signature, maker.public().fingerprint());
    // Revoked later: it is not installed again, and does not start.
    shelf.step(&to("2.0.0")).unwrap();
    let revoked = policy(&maker, true);
    let by_hand = Terms {
        policy: revoked.clone(),
        ..terms()
    };
    assert!(refusal(&by_hand).contains("revoked"));
    let settled = shelf.settle(&model, &revoked);
    let first = Bundle::load_trusted(&settled.candidates[0].0, &settled.trust);
    assert!(first.is_err());
    let second = Bundle::load_trusted(&settled.candidates[1].0, &settled.trust);
    assert_eq!(second.unwrap().version(), "1.0.0");
}

/// A downgrade: the configured bundle runs, and what the newer program had on the shelf is there when it comes back.
#[test]
fn the_shelf_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (shelf, model, _configured) = stocked(dir.path());
    let file = dir.path().join("models/hall%2Fpump/shelf.json");
    let later = r#"{"format":"millrace-shelf","version":99,"active":["later"]}"#;
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains("millrace-shelf")
    );
    fs::write(&file, later).unwrap();
    let bundles = fs::read_dir(file.parent().unwrap()).unwrap().count();
    let settled = shelf.settle(&model, &ModelPolicy::default());
    assert_eq!(settled.candidates, [(model.bundle.clone(), None)]);
    assert_eq!(settled.trouble.len(), 1, "{:?}", settled.trouble);
    assert!(settled.trouble[0].contains("newer version of millrace"));
    let refused = install(&shelf, bundle("1.3.0").path(), &terms()).unwrap_err();
    assert!(
        refused.to_string().contains("install that one again"),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), later);
    assert_eq!(
        fs::read_dir(file.parent().unwrap()).unwrap().count(),
        bundles
    );
}

#[test]
fn other_roles_and_what_is_no_bundle_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (shelf, mut model, _configured) = stocked(dir.path());
    let before = shelf.state().unwrap();
    let arrival = shelf.arriving().unwrap();
    fs::write(arrival.path(), b"no tar").unwrap();
    assert!(shelf.admit(&model, arrival.path(), &terms()).is_err());
    let good = Bundle::pack(bundle("3.0.0").path()).unwrap();
    fs::write(arrival.path(), good).unwrap();
    model.inputs = BTreeMap::new();
    let error = shelf.admit(&model, arrival.path(), &terms()).unwrap_err();
    assert!(error.to_string().contains("[model.inputs]"), "{error}");
    assert_eq!(shelf.state().unwrap(), before);
}
