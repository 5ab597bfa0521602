//! Configurations in, problems or settings out. The cases are in `tests/cases/config`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_buffer::WhenFull;
use millrace_drivers::opcua::{Auth, Collect, Security};
use millrace_inference::{CalibrationRule, Grid, Method, Threshold};
use millrace_tags::ValueType;
use millrace_uplink::SecretSource;

use super::bootstrap::ExternalId;
use super::uplink::Start;
use super::*;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/config")
}

fn case(name: &str) -> Result<Loaded, Problems> {
    // A data directory of its own: the cloud layer of the machine that runs the test is not meant.
    let nowhere = Path::new("/nonexistent/millrace-test");
    load(Some(&cases().join(format!("{name}.toml"))), Some(nowhere))
}

/// Compares with `tests/cases/config/snapshots/<name>.snap`.
fn assert_case(name: &str, text: &str) {
    let directory = format!("{}/", cases().display());
    let text = text.replace(&directory, "");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(cases().join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn assert_problems(name: &str) {
    let problems = case(name).expect_err("the case has problems");
    assert_case(name, &problems.to_string());
    for shown in [
        problems.to_string(),
        serde_json::to_string(&problems).unwrap(),
    ] {
        assert!(!shown.contains("hunter2"), "a secret is shown: {shown}");
    }
}

/// One test for each case that has problems.
macro_rules! problem_cases {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            assert_problems($name);
        })*
    };
}

problem_cases! {
    syntax_error_has_its_line: "syntax",
    unknown_keys_name_the_nearest: "unknown-keys",
    values_out_of_range_name_the_limit: "ranges",
    names_are_checked_and_unique: "names",
    modbus_tags_are_checked: "modbus-tags",
    meanings_of_tags_are_checked: "meanings",
    opcua_devices_are_checked: "opcua",
    lines_and_their_devices_are_checked: "lines",
    what_comes_later_is_refused_by_name: "later",
    uplinks_are_checked: "uplink",
    profiles_say_what_they_miss: "profile",
    what_is_compressed_and_sealed_is_checked: "packing",
    tls_and_bootstrap_are_checked: "tls",
    keys_of_other_providers_are_named: "bootstrap",
    a_provider_says_what_it_needs: "bootstrap-missing",
    a_claim_of_aws_says_what_it_needs: "bootstrap-aws",
    tokens_are_checked: "token",
    models_are_checked: "model",
    detectors_are_checked: "detector",
    local_grants_are_checked: "local",
    wrong_shapes_are_named: "shapes",
    csv_problems_have_their_row: "tags-file",
}

/// A directory with these files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn load_in(dir: &tempfile::TempDir) -> Result<Loaded, Problems> {
    load(Some(dir.path()), None)
}

fn shown(dir: &tempfile::TempDir, text: impl ToString) -> String {
    let directory = format!("{}/", dir.path().display());
    text.to_string().replace(&directory, "")
}

const PLC: &str = "driver = \"modbus-tcp\"\naddress = \"10.0.0.5\"\ntag = [{ name = \"run\", address = \"coil:0\" }]\n";

fn device(name: &str) -> String {
    format!("[[device]]\nname = \"{name}\"\n{PLC}")
}

#[test]
fn states_scale_registers_and_totals_are_read() {
    let csv = "name,address,type,states,scale_register,scale_rule,totaliser,rollover,scale\n\
               mode,holding:0,u16,\"0=off, 1=on\",,,,,\n\
               power,holding:2,i16,,holding:9000,,,,0.001\n\
               energy,holding:4,u32,,holding:6,factor,true,1000000,\n";
    let device = "[[device]]\nname = \"m\"\ndriver = \"modbus-tcp\"\naddress = \"10.0.0.5\"\ntags_file = \"m.csv\"\n";
    let dir = directory(&[("millrace.toml", device), ("m.csv", csv)]);
    let loaded = load_in(&dir).unwrap();
    let tags = &loaded.config.devices[0].tags;
    let types: Vec<ValueType> = tags.iter().map(|tag| tag.value_type).collect();
    assert_eq!(types, [ValueType::Text, ValueType::F64, ValueType::F64]);
    assert!(
        matches!(&tags[0].meaning, TagMeaning::States(states) if states.to_string() == "0=off, 1=on")
    );
    let total = TagMeaning::Total {
        rollover: Some(1_000_000),
        step: None,
    };
    assert_eq!(tags[2].meaning, total);
    let notes: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(
        notes
            .iter()
            .any(|note| note.contains("holding:9000 do not fit into one request")),
        "{notes:?}"
    );
    assert!(
        !notes.iter().any(|note| note.contains("holding:6 ")),
        "{notes:?}"
    );
}

#[test]
fn a_scale_register_keeps_out_of_forbidden_ranges() {
    let tag = "tag = [{ name = \"p\", address = \"holding:0\", type = \"u16\", scale_register = \"holding:55\" }]\n";
    let text = device("plc").replace("tag = [{ name = \"run\", address = \"coil:0\" }]\n", tag)
        + "forbidden = [\"holding:50-59\"]\n";
    let dir = directory(&[("millrace.toml", &text)]);
    let problems = load_in(&dir).unwrap_err().to_string();
    assert!(problems.contains("tag p lies in it"), "{problems}");
}

#[test]
fn big_configuration_means_what_it_says() {
    let config = case("big").unwrap().config;
    assert_eq!(config.gateway.id, "gw-1");
    assert_eq!(
        config.gateway.data_dir,
        Path::new("/nonexistent/millrace-test")
    );
    assert_eq!(
        config.buffer,
        Buffer {
            commit_interval: Duration::from_millis(500),
            max_bytes: 512_000_000,
            max_age: Duration::from_secs(7 * 86_400),
            keep: Duration::from_secs(12 * 3600),
            when_full: WhenFull::Block,
            reserve: 256 << 20,
            alarm_max_bytes: None,
            alarm_when_full: WhenFull::DropOldest,
        }
    );
    let names: Vec<&str> = config
        .devices
        .iter()
        .map(|device| device.name.as_str())
        .collect();
    assert_eq!(names, ["plant/boiler", "spare", "server", "polled"]);
    assert_eq!(config.models[0].inputs["level"], "server/level");
    assert_eq!(config.models[0].bundle, cases().join("models/pump-anomaly"));
    assert_eq!(config.local.commands, ["read", "status"]);
    let bootstrap = config.bootstrap.unwrap();
    assert_eq!(bootstrap.external_id, Some(ExternalId::Mac("eth0".into())));
    assert_eq!(
        bootstrap.external_key,
        Some(SecretSource::File(cases().join("bootstrap.key")))
    );
}

const LINES: &str = r#"
[[line]]
name = "rs485-1"
port = "/dev/serial/by-id/usb-FTDI"
parity = "none"

[[device]]
name = "drive"
driver = "modbus-rtu"
address = "rs485-1"
unit_id = 17
poll_interval = "100ms"
tag = [{ name = "all", address = "holding:0", type = "u16[120]" }]

[[device]]
name = "remote"
driver = "modbus-rtu-tcp"
address = "listen:0.0.0.0:5020"
source = "10.8.0.7"
tag = [{ name = "torque", address = "holding:0", type = "u16" }]

[[device]]
name = "safe"
driver = "modbus-tls"
address = "10.0.0.9"
ca_file = "ca.pem"
cert_file = "gw.pem"
key_file = "gw.key"
max_in_flight = 4
tag = [{ name = "torque", address = "holding:0", type = "u16" }]
"#;

#[test]
fn serial_and_secured_devices_mean_what_they_say() {
    let dir = directory(&[("millrace.toml", LINES)]);
    let loaded = load_in(&dir).unwrap();
    let config = &loaded.config;
    let line = &config.lines[0].settings;
    assert_eq!(
        (line.baud, line.parity, line.stop_bits),
        (9_600, millrace_drivers::modbus::Parity::None, 1)
    );
    let Connection::ModbusRtu { line, settings } = &config.devices[0].connection else {
        panic!("{:?}", config.devices[0].connection);
    };
    assert_eq!((line.as_str(), settings.unit_id), ("rs485-1", 17));
    let Connection::ModbusRtuTcp { dial_in, .. } = &config.devices[1].connection else {
        panic!("{:?}", config.devices[1].connection);
    };
    let listen = dial_in.as_ref().unwrap();
    assert_eq!(listen.address, "0.0.0.0:5020");
    assert_eq!(listen.source, Some("10.8.0.7".parse().unwrap()));
    let Connection::ModbusTcp { settings, .. } = &config.devices[2].connection else {
        panic!("{:?}", config.devices[2].connection);
    };
    assert_eq!(settings.address, "10.0.0.9:802");
    assert_eq!(settings.max_in_flight, 4);
    assert_eq!(config.devices[2].connection.kind(), "modbus-tls");
    // 120 registers at 9600 take longer than 100 ms, which is said.
    let notes: Vec<&str> = loaded.warnings.iter().map(|n| n.message.as_str()).collect();
    assert_eq!(
        notes,
        [
            "polling asks for 281 % of the line's time at 9600 baud: the intervals cannot hold; with everything due at once a cycle takes 0.3 s"
        ]
    );
}

/// The line has time for all, but not for a fast group behind a slow one.
#[test]
fn interval_that_is_too_short_for_what_goes_before_it_is_said() {
    let config = |forbidden: &str, interval: &str| {
        let config = format!(
            r#"
[[line]]
name = "rs485-1"
port = "/dev/ttyUSB0"
baud = 9600

[[device]]
name = "meter"
driver = "modbus-rtu"
address = "rs485-1"
poll_interval = "60s"
{forbidden}
tag = [
    {{ name = "all", address = "holding:0", type = "u16[60]" }},
    {{ name = "more", address = "holding:62", type = "u16[58]" }},
]

[[device]]
name = "switch"
driver = "modbus-rtu"
address = "rs485-1"
unit_id = 2
tag = [{{ name = "on", address = "coil:0", poll_interval = "{interval}" }}]
"#
        );
        let dir = directory(&[("millrace.toml", &config)]);
        load_in(&dir).unwrap()
    };
    let warnings = |loaded: &Loaded| -> Vec<String> {
        loaded.warnings.iter().map(|n| n.message.clone()).collect()
    };
    let loaded = config("", "200ms");
    assert_eq!(
        warnings(&loaded),
        [
            "the tags of switch at 200 ms are read late at times: their read takes 34 ms, and what goes before it up to 307 ms"
        ]
    );
    assert_eq!(warnings(&config("", "500ms")), [""; 0]);
    // Two registers between them that must not be read make two requests of one, each of them shorter.
    let apart = config("forbidden = [\"holding:60-61\"]", "200ms");
    let per_s = |loaded: &Loaded| summary(&loaded.config).lines[0].requests_per_s;
    assert!(per_s(&apart) > per_s(&loaded));
    let devices = summary(&apart.config).devices;
    assert!((devices[0].requests_per_s - 2.0 / 60.0).abs() < 1e-9);
}

#[test]
fn modbus_device_means_what_it_says() {
    let config = case("big").unwrap().config;
    let boiler = &config.devices[0];
    let Connection::ModbusTcp { settings, .. } = &boiler.connection else {
        panic!("{:?}", boiler.connection);
    };
    assert_eq!(
        (settings.address.as_str(), settings.unit_id),
        ("10.0.0.5:1502", 7)
    );
    assert_eq!(settings.timeout, Duration::from_secs(2));
    assert_eq!(
        (settings.limits.max_registers, settings.limits.max_coils),
        (64, 100)
    );
    let [pressure, alarm, temperature, flow, serial] = boiler.tags.as_slice() else {
        panic!("{:?}", boiler.tags);
    };
    assert_eq!(pressure.value_type, ValueType::F64);
    assert_eq!(
        pressure.scaling,
        Some(Scaling {
            scale: 0.1,
            offset: -1.0
        })
    );
    assert_eq!(pressure.deadband, Some(Deadband::Percent(1.0)));
    assert_eq!(pressure.report_at_least, Some(Duration::from_secs(600)));
    assert_eq!(pressure.poll_interval, Duration::from_millis(100));
    assert!(pressure.writable);
    assert_eq!((alarm.value_type, alarm.scaling), (ValueType::Bool, None));
    assert_eq!(temperature.value_type, ValueType::I64);
    assert_eq!(temperature.unit.as_deref(), Some("°C"));
    assert_eq!(temperature.poll_interval, Duration::from_millis(250));
    assert_eq!(flow.poll_interval, Duration::from_secs(1));
    assert_eq!(serial.value_type, ValueType::Text);
    let spare = &config.devices[1];
    assert!(!spare.enabled);
    assert_eq!(spare.connection.address(), "[fe80::1]:502");
    assert_eq!(spare.tags[0].deadband, Some(Deadband::Absolute(0.0)));
}

#[test]
fn opcua_device_means_what_it_says() {
    let config = case("big").unwrap().config;
    let Connection::Opcua(settings) = &config.devices[2].connection else {
        panic!("{:?}", config.devices[2]);
    };
    assert_eq!(settings.url, "opc.tcp://10.0.0.6:4840/plant");
    assert!(matches!(settings.security, Security::Policy { .. }));
    assert!(matches!(&settings.auth, Auth::UserName { user, .. } if user == "operator"));
    assert_eq!(settings.collect, Collect::Subscribe);
    assert_eq!(settings.sampling_interval, Some(Duration::from_millis(100)));
    assert_eq!(settings.queue_size, 20);
    assert_eq!(
        settings.pki_dir,
        Path::new("/nonexistent/millrace-test/pki")
    );
    let types: Vec<ValueType> = config.devices[2]
        .tags
        .iter()
        .map(|tag| tag.value_type)
        .collect();
    assert_eq!(types, [ValueType::Any, ValueType::U64]);
    let Connection::Opcua(polled) = &config.devices[3].connection else {
        panic!("{:?}", config.devices[3]);
    };
    assert_eq!(
        (polled.security, polled.collect),
        (Security::None, Collect::Poll)
    );
}

#[test]
fn uplink_means_what_it_says() {
    let config = case("big").unwrap().config;
    let uplink = &config.uplinks[0];
    assert_eq!(uplink.endpoint.to_string(), "mqtts://core.example:8883");
    assert_eq!(uplink.client_id, "plant-gw-1");
    assert_eq!(uplink.username.as_deref(), Some("gw-1"));
    assert_eq!(uplink.start, Some(Start::Now));
    assert!(uplink.routes("plant/boiler") && !uplink.routes("server"));
    let session = uplink.session();
    assert_eq!(session.subscribe, ["millrace/gw-1/cmd"]);
    assert_eq!(session.max_message, 65_536);
    assert_eq!(session.keep_alive, Duration::from_secs(60));
    assert_eq!(session.tls.key_file, Some(cases().join("client.key")));
}

#[test]
fn who_is_not_asked_by_mqtt_is_named() {
    let load = |provider: &str, more: &str| {
        let text = format!(
            "[bootstrap]\nprovider = \"{provider}\"\nurl = \"mqtts://core.example\"\nexternal_id = \"gw\"\n\
             external_key_file = \"key\"\n{more}\n"
        );
        let dir = directory(&[("millrace.toml", &text), ("key", "k:s")]);
        load_in(&dir)
            .map(drop)
            .map_err(|problems| problems.to_string())
    };
    assert_eq!(load("thingsboard", ""), Ok(()));
    for (provider, words) in [
        ("mainflux", "mainflux asks over https://"),
        ("est", "est asks over https:// only"),
    ] {
        let said = load(provider, "").unwrap_err();
        assert!(said.contains(words), "{said}");
    }
    let pinned = format!("ca_sha256 = \"{}\"", "0".repeat(64));
    let said = load("thingsboard", &pinned).unwrap_err();
    assert!(said.contains("it works with https:// only"), "{said}");
}

#[test]
fn summary_estimates_requests_and_storage() {
    let loaded = case("big").unwrap();
    assert_case("big", &summary(&loaded.config).to_string());
    let notes: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_case("big-warnings", &notes.join("\n\n"));
}

#[test]
fn defaults_need_no_file() {
    let config = Config::empty(Path::new("/data"));
    assert_eq!(config.gateway.data_dir, Path::new("/data"));
    assert_eq!(config.buffer.max_bytes, 4 << 30);
    assert_eq!(config.local.commands, ["read", "status", "ledger"]);
    assert!(config.devices.is_empty() && config.uplinks.is_empty());
}

#[test]
fn parts_of_a_directory_are_read_in_order() {
    let dir = directory(&[
        (
            "millrace.toml",
            "[gateway]\nid = \"a\"\ndata_dir = \"data\"\n",
        ),
        ("conf.d/20-b.toml", &device("second")),
        (
            "conf.d/10-a.toml",
            &format!("[gateway]\nid = \"b\"\n{}", device("first")),
        ),
        ("conf.d/.hidden.toml", "broken ["),
        ("conf.d/notes.txt", "broken ["),
        ("other.toml", "broken ["),
    ]);
    for path in [dir.path().to_owned(), dir.path().join("millrace.toml")] {
        let loaded = load(Some(&path), None).unwrap();
        let config = &loaded.config;
        assert_eq!(config.gateway.id, "b");
        assert_eq!(config.gateway.data_dir, dir.path().join("data"));
        let names: Vec<&str> = config
            .devices
            .iter()
            .map(|device| device.name.as_str())
            .collect();
        assert_eq!(names, ["first", "second"]);
        assert_eq!(config.files().len(), 3);
        let note = shown(&dir, &loaded.warnings[0]);
        assert!(note.contains("not the one at millrace.toml:2:6"), "{note}");
    }
}

#[test]
fn directory_without_a_main_file_is_all_of_its_files() {
    let dir = directory(&[("a.toml", &device("a")), ("b.toml", &device("b"))]);
    let data = tempfile::tempdir().unwrap();
    let loaded = load(Some(dir.path()), Some(data.path())).unwrap();
    assert_eq!(loaded.config.devices.len(), 2);
}

#[test]
fn nothing_to_read_is_said() {
    let dir = directory(&[]);
    let problems = load_in(&dir).unwrap_err().to_string();
    assert!(problems.contains("there is no *.toml in"), "{problems}");
    let problems = load(Some(&dir.path().join("gone.toml")), None)
        .unwrap_err()
        .to_string();
    assert!(problems.contains("--config"), "{problems}");
}

#[test]
fn text_that_is_not_utf8_has_its_place() {
    let dir = directory(&[]);
    std::fs::write(
        dir.path().join("millrace.toml"),
        b"[gateway]\nid = \"gw-\xe4\"\n",
    )
    .unwrap();
    let problems = shown(&dir, load_in(&dir).unwrap_err());
    insta::assert_snapshot!(problems, @r"
    error: this is not UTF-8 text
      --> millrace.toml:2:10
      hint: save the file as UTF-8; older editors on Windows write other encodings

    1 problem
    ");
}

#[test]
fn problems_of_all_files_come_at_once() {
    let dir = directory(&[
        ("millrace.toml", "[buffer]\nkeep = 3\n"),
        ("conf.d/a.toml", "broken ["),
        ("conf.d/b.toml", "[gateway]\nidd = \"x\"\n"),
    ]);
    let problems = load_in(&dir).unwrap_err();
    let files: Vec<String> = problems
        .iter()
        .map(|problem| shown(&dir, problem.place.file.display()))
        .collect();
    assert_eq!(files, ["millrace.toml", "conf.d/a.toml", "conf.d/b.toml"]);
}

#[test]
fn device_in_two_files_is_refused_with_both_places() {
    let dir = directory(&[
        ("millrace.toml", &device("a")),
        ("conf.d/a.toml", &device("a")),
    ]);
    let problems = load_in(&dir).unwrap_err();
    assert_eq!(problems.iter().count(), 2, "{problems}");
    let text = shown(&dir, problems);
    assert!(
        text.contains("device a has the name of the device at millrace.toml:2:8"),
        "{text}"
    );
    assert!(text.contains("conf.d/a.toml:2:8"), "{text}");
}

/// A main file whose data directory is `data`, and a cloud layer in it.
fn with_cloud(local: &str, cloud: &str) -> tempfile::TempDir {
    let main = format!("[gateway]\ndata_dir = \"data\"\n{local}");
    directory(&[("millrace.toml", &main), ("data/config/cloud.toml", cloud)])
}

#[test]
fn cloud_layer_lies_under_the_local_files() {
    let cloud = format!(
        "[gateway]\nid = \"cloud\"\n[buffer]\ncommit_interval = \"3s\"\nmax_age = \"1d\"\n{}{}",
        device("a"),
        device("b")
    );
    let local = format!(
        "id = \"local\"\n[buffer]\ncommit_interval = \"2s\"\n{}",
        device("a").replace("10.0.0.5", "10.0.0.99")
    );
    let dir = with_cloud(&local, &cloud);
    let loaded = load_in(&dir).unwrap();
    let config = &loaded.config;
    assert_eq!(config.gateway.id, "local");
    assert_eq!(config.buffer.commit_interval, Duration::from_secs(2));
    assert_eq!(config.buffer.max_age, Duration::from_secs(86_400));
    assert_eq!(config.devices.len(), 2);
    assert_eq!(config.devices[0].connection.address(), "10.0.0.99:502");
    let notes: Vec<String> = loaded
        .warnings
        .iter()
        .map(|note| shown(&dir, note))
        .collect();
    assert!(
        notes.iter().any(
            |note| note.contains("the cloud has a device a too, at data/config/cloud.toml:6:1")
        ),
        "{notes:#?}"
    );
}

#[test]
fn cloud_layer_cannot_widen_its_rights() {
    let cloud = "[local]\ncommands = [\"write\"]\n[bootstrap]\nprovider = \"mainflux\"\n[gateway]\ndata_dir = \"/tmp\"\n";
    let dir = with_cloud("[local]\ncommands = [\"read\"]\n", cloud);
    let loaded = load_in(&dir).unwrap();
    assert_eq!(loaded.config.local.commands, ["read"]);
    assert_eq!(loaded.config.bootstrap, None);
    assert_eq!(loaded.config.gateway.data_dir, dir.path().join("data"));
    let notes: Vec<&str> = loaded
        .warnings
        .iter()
        .map(|note| note.message.as_str())
        .collect();
    assert!(
        notes.contains(&"[local] is ignored: it is taken from local files only"),
        "{notes:?}"
    );
    assert!(
        notes.contains(&"[bootstrap] is ignored: it is taken from local files only"),
        "{notes:?}"
    );
    assert!(
        notes
            .iter()
            .any(|note| note.starts_with("data_dir is ignored")),
        "{notes:?}"
    );
}

#[test]
fn cloud_layer_cannot_name_files_of_the_gateway() {
    for file in ["/etc/shadow", "../../secret", "env:HOME", "credential:mqtt"] {
        let cloud = format!(
            "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://evil.example\"\nusername = \"me\"\npassword_file = \"{file}\"\n"
        );
        let problems = load_in(&with_cloud("", &cloud)).unwrap_err().to_string();
        assert!(
            problems.contains("only files in the data directory"),
            "{problems}"
        );
    }
    let cloud = "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://core\"\nusername = \"me\"\npassword_file = \"pw\"\n";
    let dir = with_cloud("", cloud);
    let config = load_in(&dir).unwrap().config;
    let password = SecretSource::File(dir.path().join("data/config/pw"));
    assert_eq!(config.uplinks[0].password, Some(password.into()));
}

#[test]
fn cloud_layer_can_be_checked_before_it_is_kept() {
    let dir = with_cloud("", "broken [");
    let data = dir.path().join("data");
    check_cloud_layer(Some(dir.path()), &data, &device("a")).unwrap();
    let problems =
        check_cloud_layer(Some(dir.path()), &data, "[[device]]\nname = 3\n").unwrap_err();
    assert!(shown(&dir, problems).contains("data/config/cloud.toml:2:8"));
}

#[test]
fn last_good_configuration_outlives_its_files() {
    let dir = directory(&[
        (
            "millrace.toml",
            "[gateway]\nid = \"good\"\ndata_dir = \"data\"\n",
        ),
        (
            "conf.d/a.toml",
            "[[device]]\nname = \"a\"\ndriver = \"modbus-tcp\"\naddress = \"10.0.0.5\"\ntags_file = \"../tags/a.csv\"\n",
        ),
        ("tags/a.csv", "name,address,type\nx,holding:0,u16\n"),
        ("data/config/cloud.toml", &device("from-cloud")),
    ]);
    let data = dir.path().join("data");
    assert!(matches!(
        last_good::load(&data),
        Err(last_good::LastGoodError::None(_))
    ));
    let good = load_in(&dir).unwrap();
    last_good::save(&good).unwrap();
    last_good::save(&good).unwrap();
    std::fs::write(dir.path().join("millrace.toml"), "broken [").unwrap();
    std::fs::remove_dir_all(dir.path().join("tags")).unwrap();
    std::fs::remove_file(data.join("config/cloud.toml")).unwrap();
    let kept = last_good::load(&data).unwrap().config;
    assert_eq!(kept.gateway.id, "good");
    let names: Vec<&str> = kept
        .devices
        .iter()
        .map(|device| device.name.as_str())
        .collect();
    assert_eq!(names, ["from-cloud", "a"]);
    assert_eq!(kept.devices[1].tags.len(), 1);
}

#[test]
fn newer_good_configuration_replaces_the_older_whole() {
    let dir = directory(&[
        ("millrace.toml", "[gateway]\ndata_dir = \"data\"\n"),
        ("conf.d/a.toml", &device("a")),
    ]);
    last_good::save(&load_in(&dir).unwrap()).unwrap();
    std::fs::remove_file(dir.path().join("conf.d/a.toml")).unwrap();
    last_good::save(&load_in(&dir).unwrap()).unwrap();
    let data = dir.path().join("data");
    assert!(last_good::load(&data).unwrap().config.devices.is_empty());
    // A power cut between the two renames leaves only the old one.
    let config = data.join("config");
    std::fs::rename(config.join("last-good"), config.join("last-good.old")).unwrap();
    assert!(last_good::load(&data).is_ok());
    std::fs::write(
        config.join("last-good.old/files.json"),
        "{\"version\":99,\"files\":[]}",
    )
    .unwrap();
    assert!(matches!(
        last_good::load(&data),
        Err(last_good::LastGoodError::Newer { version: 99, .. })
    ));
}

#[test]
fn a_detector_takes_the_place_of_a_bundle() {
    let dir = directory(&[
        (
            "millrace.toml",
            "[[model]]\nname = \"watch\"\ndetector = \"pca\"\ninputs = { p = \"d/run\", q = \"d/run\" }\n\
             [[model]]\nname = \"drift\"\ndetector = \"cusum\"\ngrid = \"scan\"\nthreshold = \"pot\"\nthreshold_windows = 500\n\
             inputs = { p = \"d/run\" }\n\
             [[model]]\nname = \"still\"\ndetector = \"stuck\"\non = 1\nseverity = []\ninputs = { p = \"d/run\", q = \"d/run\" }\n\
             limits = { q = 0.5 }\n",
        ),
        ("conf.d/d.toml", &device("d")),
    ]);
    let loaded = load_in(&dir).unwrap();
    let (problems, _) = check_surroundings(&loaded);
    problems.unwrap();
    let detector = |at: usize| loaded.config.models[at].detector.clone().unwrap();
    let pca = detector(0);
    let method = Method::Pca {
        variance: 0.85,
        confidence: 0.999,
        train: 1_000,
    };
    assert_eq!((pca.method, pca.window.len), (method, 1));
    assert_eq!(pca.threshold, Threshold::Fixed(1.0));
    let roles: Vec<&str> = pca.inputs.iter().map(|input| input.role.as_str()).collect();
    assert_eq!(roles, ["p", "q"]);
    assert_eq!((pca.decision.on, pca.decision.on_of), (3, 3));
    assert_eq!(pca.decision.severity, [1.0, 1.5, 3.0]);
    let cusum = detector(1);
    assert_eq!((cusum.window.grid, cusum.window.len), (Grid::Scan, 100));
    let rule = CalibrationRule {
        windows: 500,
        ..CalibrationRule::POT
    };
    assert_eq!(cusum.threshold, Threshold::Pot(rule));
    let stuck = detector(2);
    assert_eq!(
        stuck.method,
        Method::Stuck {
            change: vec![0.0, 0.5]
        }
    );
    assert!(stuck.decision.severity.is_empty());
}

#[test]
fn files_around_are_checked_apart() {
    use std::os::unix::fs::PermissionsExt;
    let dir = directory(&[
        (
            "millrace.toml",
            "[gateway]\ndata_dir = \"data\"\n[[uplink]]\nname = \"cloud\"\nurl = \"mqtts://core\"\nusername = \"me\"\n\
             password_file = \"pw\"\nca_file = \"ca.pem\"\n[[model]]\nname = \"m\"\nbundle = \"none\"\ninputs = { a = \"d/run\" }\n",
        ),
        ("conf.d/d.toml", &device("d")),
        ("pw", "hunter2\n"),
    ]);
    std::fs::set_permissions(
        dir.path().join("pw"),
        std::fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let loaded = load_in(&dir).unwrap();
    let (problems, notes) = check_surroundings(&loaded);
    let problems = shown(&dir, problems.unwrap_err());
    assert!(problems.contains("cannot read ca.pem"), "{problems}");
    assert!(problems.contains("model[m].bundle"), "{problems}");
    assert!(
        notes[0]
            .message
            .contains("everybody on this machine can read"),
        "{notes:?}"
    );
}

#[test]
fn problems_are_data_too() {
    let problems = case("ranges").unwrap_err();
    let json = serde_json::to_value(&problems).unwrap();
    let first = &json[0];
    assert_eq!(first["line"], 2);
    assert_eq!(first["column"], 19);
    assert_eq!(first["key"], "buffer.commit_interval");
    assert_eq!(first["value"], "5ms");
    assert_eq!(first["expected"], "the minimum is 10ms");
    assert_eq!(
        first["message"],
        "commit_interval is 5ms; the minimum is 10ms"
    );
}

#[test]
fn too_many_tags_are_refused() {
    let mut csv = String::from("name,address\n");
    for n in 0..60_000 {
        csv.push_str(&format!("t{n},coil:{n}\n"));
    }
    let device = |name| {
        format!(
            "[[device]]\nname = \"{name}\"\ndriver = \"modbus-tcp\"\naddress = \"a\"\ntags_file = \"t.csv\"\n"
        )
    };
    let main = format!("{}{}", device("a"), device("b"));
    let dir = directory(&[("millrace.toml", &main), ("t.csv", &csv)]);
    let problems = load(Some(dir.path()), Some(dir.path()))
        .unwrap_err()
        .to_string();
    assert!(
        problems.contains("there are 120000 tags; the maximum is 100000"),
        "{problems}"
    );
}

#[test]
fn cut_off_files_never_panic() {
    let text = std::fs::read_to_string(cases().join("big.toml")).unwrap();
    let dir = directory(&[("big.csv", "name\n")]);
    let main = dir.path().join("millrace.toml");
    for (end, _) in text.char_indices().step_by(7) {
        std::fs::write(&main, &text[..end]).unwrap();
        // Good or bad, it is answered.
        let _ = load(Some(&main), Some(dir.path()));
    }
}

#[test]
fn last_good_configuration_keeps_profiles_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let profiles = dir.path().join("profiles");
    std::fs::create_dir(&profiles).unwrap();
    let own = "format = 1\nname = \"own\"\nabout = \"x\"\ncodec = \"json\"\ndelivery = \"acked\"\n\
               sequence = \"payload\"\n[topics]\ndata = \"own/{source}\"\n";
    std::fs::write(profiles.join("own.toml"), own).unwrap();
    let file = dir.path().join("millrace.toml");
    let text = "[gateway]\nid = \"gw\"\ndata_dir = \"data\"\n[[uplink]]\nname = \"a\"\nprofile = \"own\"\n\
                url = \"mqtt://127.0.0.1\"\n";
    std::fs::write(&file, text).unwrap();
    let loaded = load(Some(&file), None).unwrap();
    last_good::save(&loaded).unwrap();
    // The one on disk is broken meanwhile.
    std::fs::write(profiles.join("own.toml"), "format = 9\n").unwrap();
    assert!(load(Some(&file), None).is_err());
    let kept = last_good::load(&dir.path().join("data")).unwrap();
    assert_eq!(kept.config.uplinks[0].profile.definition().name, "own");
}
