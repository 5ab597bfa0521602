use super::*;

/// Every line of the reference page of the command line.
const COMMANDS: &[&str] = &[
    "run",
    "run --config /etc/millrace --data-dir /tmp/d --strict",
    "check",
    "check --live",
    "check --config a.toml --json",
    "demo",
    "demo --seconds 20 --json",
    "status",
    "--json status",
    "status --json --socket /tmp/s",
    "events",
    "events --follow",
    "tags",
    "tags boiler/* --follow",
    "read boiler/pressure boiler/run",
    "read --on tcp://10.0.0.5:502/1 holding:0 --type f32 --order cdab",
    "read --on /dev/ttyUSB0,9600,8E1/3 40001",
    "read --on opc.tcp://10.0.0.6:4840 ns=2;s=Level",
    "write boiler/setpoint -3.5",
    "write --on tcp://10.0.0.5 holding:0 7",
    "write --on opc.tcp://10.0.0.6:4840 --security Basic256Sha256 --mode sign ns=2;s=Set -7.5",
    "device list",
    "device test boiler",
    "device pause boiler",
    "device resume boiler",
    "trace boiler",
    "trace rs485-1 --for 10s --count 20 --json",
    "tape record rs485-1 rs485-1.tape --for 1m",
    "tape show rs485-1.tape",
    "tape play rs485-1.tape",
    "ledger",
    "ledger --verify --json",
    "buffer status",
    "buffer peek",
    "buffer export --format csv",
    "buffer purge",
    "buffer purge --before 7d --log data --yes",
    "buffer replay --since 2h",
    "buffer replay --source boiler --stream 6f0c --first 3 --last 9 --uplink cloud",
    "buffer poison list",
    "buffer poison retry 3",
    "buffer poison drop 3",
    "model new model.onnx",
    "model new model.onnx --update",
    "model sign pump --key maker.pem --new-key",
    "model list",
    "model list --json",
    "model install pump-1.1.0.tar",
    "model install models/pump --model hall/pump --allow-downgrade --promote",
    "model shadow 1.1.0 --model hall/pump",
    "model shadow --stop",
    "model promote 1.1.0",
    "model promote 1.1.0 --model hall/pump --allow-downgrade",
    "model rollback",
    "model rollback --model hall/pump",
    "model remove 1.0.0",
    "model calibrate",
    "model calibrate x --restart",
    "model eval pump --csv x.csv --labels anomaly --plot out.svg",
    "model bench x",
    "scan modbus 10.0.0.5",
    "scan modbus /dev/ttyUSB0,9600,8E1/3 --addresses 0-999 --step 1 --json",
    "scan serial /dev/ttyUSB0",
    "scan serial rs485-1 --units 1-10 --csv",
    "scan serial /dev/ttyUSB0 --baud 9600,19200 --frame 8N1,8E1",
    "browse opc.tcp://10.0.0.6:4840",
    "browse opc.tcp://10.0.0.6:4840 ns=2;s=Line1 --depth 3 --csv --username anna --password-file p",
    "browse press i=2253 --no-values --max 500 --json",
    "call press ns=2;s=Line1 mix 2.5 -1 text",
    "call opc.tcp://10.0.0.6:4840 ns=2;s=Line1 ns=2;s=mix --security None",
    "identify opc.tcp://10.0.0.6:4840 --security None",
    "identify tcp://10.0.0.5",
    "identify boiler",
    "probe-value --on tcp://10.0.0.5 --near holding:0-100 -3.5",
    "bootstrap run",
    "bootstrap status",
    "bootstrap reset --yes",
    "uplink list",
    "uplink test cloud",
    "config show",
    "config diff",
    "config apply new.toml",
    "config rollback",
    "config schema",
    "trust opc.tcp://10.0.0.6:4840",
    "trust opc.tcp://10.0.0.6:4840 --pin",
    "trust press --pin --thumbprint AB12",
    "trust --own",
    "trust --own --renew",
    "doctor --report out.tar",
    "watch",
    "user add anna",
    "completions bash",
    "man",
];

#[cfg(feature = "sim")]
const SIM_COMMANDS: &[&str] = &[
    "sim modbus",
    "sim modbus --listen 127.0.0.1:1502 --tags 200",
    "sim modbus --map map.csv",
    "sim modbus --replay FILE.csv --advance read",
    "sim modbus --replay FILE.csv --advance tick --tick 1s --speed 10",
    "sim modbus --print-config",
    "sim opcua",
    "sim opcua --listen 127.0.0.1:4840 --nodes 30",
];
#[cfg(not(feature = "sim"))]
const SIM_COMMANDS: &[&str] = &["sim modbus", "sim opcua"];

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(["millrace"].into_iter().chain(line.split(' ')))
}

#[test]
fn every_command_parses() {
    Cli::command().debug_assert();
    for line in COMMANDS.iter().chain(SIM_COMMANDS) {
        if let Err(error) = parse(line) {
            panic!("millrace {line}: {error}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_usage() {
    for line in [
        "",
        "frobnicate",
        "device test",
        "read",
        "read holding:0 --type f32",
        "buffer",
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "millrace {line}");
    }
}

#[test]
fn every_command_has_help() {
    fn walk(command: &mut clap::Command, path: &str) {
        assert!(command.get_about().is_some(), "{path} has no description");
        assert!(!command.render_long_help().to_string().is_empty());
        for sub in command.get_subcommands_mut() {
            let path = format!("{path} {}", sub.get_name());
            walk(sub, &path);
        }
    }
    let mut command = Cli::command();
    command.build();
    walk(&mut command, "millrace");
}

#[test]
fn later_commands_say_what_to_use() {
    for line in ["doctor", "watch", "user"] {
        let cli = parse(line).unwrap();
        let error = cli.command.run(&cli.global).unwrap_err();
        let text = failure::text(&error);
        assert!(text.contains("is not in this version yet; "), "{text}");
        let (command, _) = text.split_once(" is not").unwrap();
        let command = command.trim_start_matches("error: `millrace ");
        assert!(line.starts_with(command.trim_end_matches('`')), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn causes_and_hint_are_told_once() {
    let cause = std::io::Error::other("disk on fire");
    let failure = Failure::usage("cannot read x.toml")
        .because(cause)
        .hint("put it out");
    assert_eq!(failure.exit_code(), 2);
    assert_eq!(
        failure::text(&failure.into()),
        "error: cannot read x.toml: disk on fire\nhint: put it out\n"
    );
}

#[test]
fn completions_name_the_commands() {
    let mut text = Vec::new();
    clap_complete::generate(
        clap_complete::Shell::Bash,
        &mut Cli::command(),
        "millrace",
        &mut text,
    );
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("ledger") && text.contains("completions"));
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!("man --dir {}", dir.path().display());
    let cli = parse(&line).unwrap();
    cli.command.run(&cli.global).unwrap();
    for page in ["millrace", "millrace-run", "millrace-buffer-status"] {
        let text = std::fs::read_to_string(dir.path().join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
}
