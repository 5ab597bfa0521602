//! `millrace scan`: who is on a line, who is behind an address, and what can be read there.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use millrace_drivers::modbus::scan::{self, FoundUnit, LineFound, LineSearch, Progress};
use millrace_drivers::modbus::{
    Caller, Identification, Parity, Readable, SerialSettings, Sweep, Table, identify,
};
use serde::Serialize;

use super::client::block_on;
use super::once::Target;
use super::reach::{self, Way};
use super::{Failure, Global, output, show};

/// `scan`: what is on a network or a line.
#[derive(Debug, Subcommand)]
pub(crate) enum ScanCommand {
    Modbus(ModbusArgs),
    Serial(SerialArgs),
}

/// Find the settings of a serial line and its units
///
/// Common settings and low units come first. Any answer counts, also a refusal. Prints the configuration of
/// what was found; Ctrl-C ends the search and prints what was found so far. On a line that the running agent
/// holds only its units are searched for, between the turns of its devices.
#[derive(Debug, Args)]
pub(crate) struct SerialArgs {
    /// The port, or a line of the running agent
    #[arg(value_name = "PORT|LINE")]
    port: String,
    /// Rates to try [default: 9600,19200,38400,115200,57600,4800,2400,1200]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(300..=4_000_000))]
    baud: Vec<u32>,
    /// Parity and stop bits to try [default: 8N1,8E1,8O1,8N2]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = frame)]
    frame: Vec<(Parity, u8)>,
    /// Units to ask
    #[arg(long, value_name = "LIST", default_value = "1-247", value_parser = units)]
    units: Units,
    /// How long a unit may take to answer
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print unit,exception,identification lines instead of configuration
    #[arg(long)]
    csv: bool,
}

/// Find the units behind an address, and what can be read of each
///
/// A range of at least --step addresses is found with its exact bounds, a shorter one if one of its
/// addresses is a multiple of it. Prints the configuration of what was found; Ctrl-C ends the search and
/// prints what was found so far.
#[derive(Debug, Args)]
pub(crate) struct ModbusArgs {
    /// `HOST[:PORT]`, or as with `read --on`: tcp://HOST, rtu+tcp://HOST:PORT, /dev/ttyUSB0,9600,8E1/3
    #[arg(value_name = "HOST")]
    host: String,
    /// Units to ask [default: 1-247, or the one that is named]
    #[arg(long, value_name = "LIST", value_parser = units)]
    units: Option<Units>,
    /// Addresses to look at
    #[arg(long, value_name = "FIRST-LAST", default_value = "0-9999", value_parser = addresses)]
    addresses: RangeInclusive<u16>,
    /// How far apart addresses are asked for alone where a block is refused; 1 asks for each
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    step: u16,
    /// Only find the units
    #[arg(long)]
    units_only: bool,
    /// How long a unit may take to answer
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print unit,table,first,last lines instead of configuration
    #[arg(long)]
    csv: bool,
}

/// Unit ids in the order in which they are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Units(Vec<u8>);

/// `1,2,5-7`
fn units(text: &str) -> Result<Units, String> {
    let mut units: Vec<u8> = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<u8>(), last.trim().parse::<u8>()) {
            (Ok(first), Ok(last)) if first <= last => units.extend(first..=last),
            _ => return Err(format!("{part:?} is no unit id from 0 to 255, nor a range")),
        }
    }
    Ok(Units(units))
}

fn addresses(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("{text:?} is no range of addresses such as 0-9999")),
    }
}

fn frame(text: &str) -> Result<(Parity, u8), String> {
    Target::frame(text).ok_or_else(|| format!("{text:?} is none of 8N1, 8E1, 8O1, 8N2, 8E2, 8O2"))
}

impl ScanCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            ScanCommand::Modbus(args) => block_on(args.run(global)),
            ScanCommand::Serial(args) => block_on(args.run(global)),
        }
    }
}

/// A unit as found.
#[derive(Debug, Clone, Default, Serialize)]
struct UnitReport {
    unit: u8,
    /// With which exception it refused holding:0.
    #[serde(skip_serializing_if = "Option::is_none")]
    exception: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identification: Option<String>,
    /// An address that can be read, for a first tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    readable: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tables: Vec<TableReport>,
}

#[derive(Debug, Clone, Serialize)]
struct TableReport {
    table: &'static str,
    offered: bool,
    /// First and last address.
    ranges: Vec<[u16; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_quantity: Option<u16>,
    requests: u32,
    /// The unit stopped answering there.
    #[serde(skip_serializing_if = "Option::is_none")]
    gave_up_at: Option<u16>,
}

/// What a scan found, and what of it was not looked at.
#[derive(Debug, Clone, Default, Serialize)]
struct Report {
    /// The port or the address.
    at: String,
    /// The agent's line, where it went through it.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<String>,
    units: Vec<UnitReport>,
    /// Settings at which something was heard that is no frame.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    noise_at: Vec<String>,
    /// The device answers to every unit id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    any_unit: bool,
    /// Ctrl-C came before the end.
    interrupted: bool,
}

impl Report {
    /// Units that were found, and not looked at before Ctrl-C.
    fn keep(&mut self, found: &[FoundUnit]) {
        for found in found {
            if self.units.iter().all(|unit| unit.unit != found.unit) {
                self.units.push(UnitReport {
                    unit: found.unit,
                    exception: found.exception,
                    ..UnitReport::default()
                });
            }
        }
    }
}

impl SerialArgs {
    async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let agent = reach::agent(global).await;
        if let Some(line) = agent.line(&self.port).cloned() {
            if !self.baud.is_empty() || !self.frame.is_empty() {
                let failure = Failure::new(format!(
                    "the agent holds {} at {}; other settings would cut off its devices",
                    line.port,
                    line.settings.as_deref().unwrap_or("its settings")
                ));
                return Err(failure
                    .hint("leave --baud and --frame out to find its units, or stop the agent")
                    .into());
            }
            let mut report = Report {
                at: line.port.clone(),
                line: Some(line.name.clone()),
                settings: line.settings.clone(),
                ..Report::default()
            };
            let way = reach::through(line, self.timeout, global).await?;
            let mut found = Vec::new();
            let looking = self.units_of(way, &mut found, &mut report);
            report.interrupted = stopped(looking).await?;
            report.keep(&found);
            return self.print(&report, None, global);
        }
        if !self.port.starts_with('/') {
            return Err(Failure::usage(format!(
                "{} is neither a port nor a line of a running agent",
                self.port
            ))
            .hint("ports are paths such as /dev/ttyUSB0; `millrace status` lists the devices")
            .into());
        }
        self.search(global).await
    }

    async fn units_of(
        &self,
        mut way: Way,
        found: &mut Vec<FoundUnit>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let bar = Bar::new();
        let mut tell = |progress: Progress| bar.show(&progress);
        scan::find_units(
            &mut way.caller,
            &self.units.0,
            self.timeout,
            found,
            &mut tell,
        )
        .await
        .map_err(no_way)?;
        for unit in found {
            report.units.push(about(&mut way.caller, unit).await?);
        }
        Ok(())
    }

    async fn search(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let bauds = match self.baud.as_slice() {
            [] => &scan::BAUDS[..],
            given => given,
        };
        let frames = match self.frame.as_slice() {
            [] => &scan::FRAMES[..],
            given => given,
        };
        let search = LineSearch {
            candidates: scan::candidates(&self.port, bauds, frames),
            units: self.units.0.clone(),
            timeout: self.timeout,
            clock: reach::clock(),
        };
        let bar = Bar::new();
        bar.say(&format!(
            "{} settings, {} units each: at most {}; Ctrl-C ends it",
            search.candidates.len(),
            search.units.len(),
            show::seconds(search.longest().as_secs()),
        ));
        let mut found = LineFound::default();
        let interrupted = stopped(async {
            let mut tell = |progress: Progress| bar.show(&progress);
            let searched = search.run(&mut found, &mut tell).await;
            Ok(searched.map_err(no_way)?)
        })
        .await?;
        let mut report = Report {
            at: stable_name(&self.port),
            settings: found.settings.as_ref().map(ToString::to_string),
            noise_at: found.noise.iter().map(ToString::to_string).collect(),
            interrupted,
            ..Report::default()
        };
        if let Some(settings) = &found.settings {
            let clock = reach::clock();
            let mut caller = Caller::serial(settings.clone(), self.timeout, &clock);
            for unit in &found.units {
                report.units.push(about(&mut caller, unit).await?);
            }
        }
        self.print(&report, found.settings.as_ref(), global)
    }

    fn print(
        &self,
        report: &Report,
        settings: Option<&SerialSettings>,
        global: &Global,
    ) -> anyhow::Result<ExitCode> {
        if global.json {
            output::json(report)?;
        } else if self.csv {
            output::text(&units_csv(report))?;
        } else {
            output::text(&line_config(report, settings))?;
        }
        Ok(verdict(report))
    }
}

impl ModbusArgs {
    async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let (target, named) = Target::with_unit(&self.host)?;
        let mut way = reach::way(&target, self.timeout, global).await?;
        let mut report = Report {
            at: target.place(),
            line: way.line.as_ref().map(|line| line.name.clone()),
            settings: target.settings().map(ToString::to_string),
            ..Report::default()
        };
        let units = match (&self.units, named) {
            (Some(Units(units)), _) => units.clone(),
            (None, Some(unit)) => vec![unit],
            (None, None) => (1..=247).collect(),
        };
        let mut found = Vec::new();
        let looking = self.look(&mut way.caller, units, &mut found, &mut report);
        let interrupted = stopped(looking).await?;
        report.interrupted = interrupted;
        report.keep(&found);
        if global.json {
            output::json(&report)?;
        } else if self.csv {
            output::text(&ranges_csv(&report))?;
        } else {
            output::text(&host_config(&report, &target))?;
        }
        Ok(verdict(&report))
    }

    async fn look(
        &self,
        caller: &mut Caller,
        mut units: Vec<u8>,
        found: &mut Vec<FoundUnit>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let bar = Bar::new();
        if units.len() > ANY_UNIT.len() {
            let mut tell = |progress: Progress| bar.show(&progress);
            scan::find_units(caller, &ANY_UNIT, self.timeout, found, &mut tell)
                .await
                .map_err(no_way)?;
            report.any_unit = found.len() == ANY_UNIT.len();
            if report.any_unit {
                found.clear();
                units.truncate(1);
            }
            units.retain(|unit| !ANY_UNIT.contains(unit) || report.any_unit);
        }
        let mut tell = |progress: Progress| bar.show(&progress);
        scan::find_units(caller, &units, self.timeout, found, &mut tell)
            .await
            .map_err(no_way)?;
        for unit in found {
            report.units.push(about(caller, unit).await?);
        }
        if self.units_only {
            return Ok(());
        }
        let sweep = Sweep {
            addresses: self.addresses.clone(),
            step: self.step,
        };
        for unit in &mut report.units {
            for table in TABLES {
                let id = unit.unit;
                let mut tell = |at| bar.say(&format!("unit {id}: {table}:{at}"));
                let found = sweep.run(caller, id, table, &mut tell).await?;
                let first = found.ranges.first().map(|range| range.start());
                if let Some(first) = first.filter(|_| unit.readable.is_none()) {
                    unit.readable = Some(format!("{table}:{first}"));
                }
                unit.tables.push(table_report(&found));
            }
        }
        Ok(())
    }
}

/// In the order in which most devices have something in them.
const TABLES: [Table; 4] = [Table::Holding, Table::Input, Table::Coil, Table::Discrete];

/// A device that answers as all of these does not look at the unit id.
const ANY_UNIT: [u8; 6] = [1, 2, 45, 101, 190, 247];

/// Who a found unit is, and an address that it can be read at.
async fn about(caller: &mut Caller, found: &FoundUnit) -> anyhow::Result<UnitReport> {
    let identified = identify(caller, found.unit).await?;
    let identification = identified.as_ref().map(Identification::summary);
    let sweep = Sweep {
        addresses: 0..=0,
        step: 1,
    };
    let mut readable = None;
    for table in TABLES {
        let swept = sweep.run(caller, found.unit, table, &mut |_| {}).await?;
        if !swept.ranges.is_empty() {
            readable = Some(format!("{table}:0"));
            break;
        }
    }
    Ok(UnitReport {
        unit: found.unit,
        exception: found.exception,
        identification: identification.filter(|text| !text.is_empty()),
        readable,
        tables: Vec::new(),
    })
}

fn table_report(found: &Readable) -> TableReport {
    let range = |range: &RangeInclusive<u16>| [*range.start(), *range.end()];
    TableReport {
        table: found.table.name(),
        offered: found.offered,
        ranges: found.ranges.iter().map(range).collect(),
        max_quantity: found.max_quantity,
        requests: found.requests,
        gave_up_at: found.gave_up_at,
    }
}

/// Runs a search until its end or Ctrl-C; whether it was Ctrl-C.
async fn stopped(search: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<bool> {
    tokio::select! {
        searched = search => searched.map(|()| false),
        _ = tokio::signal::ctrl_c() => Ok(true),
    }
}

fn no_way(error: millrace_drivers::SessionError) -> Failure {
    Failure::new("the search cannot begin").because(error).hint(
        "is the name right, does another program hold the port, may you open it (group dialout)?",
    )
}

/// Found something: 0.
fn verdict(report: &Report) -> ExitCode {
    match report.units.is_empty() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// The name of a port that stays when adapters are plugged in another order.
fn stable_name(port: &str) -> String {
    let by_id = Path::new("/dev/serial/by-id");
    let real = Path::new(port).canonicalize().ok();
    let names = std::fs::read_dir(by_id).into_iter().flatten().flatten();
    names
        .map(|entry| entry.path())
        .find(|path| real.is_some() && path.canonicalize().ok() == real)
        .map_or_else(|| port.to_owned(), |path| path.display().to_string())
}

fn headline(report: &Report) -> String {
    let mut text = String::new();
    let at = match &report.settings {
        Some(settings) => format!("{} at {settings}", report.at),
        None => report.at.clone(),
    };
    let count = report.units.len();
    let _ = match count {
        0 => writeln!(text, "# Nobody answered on {at}."),
        1 => writeln!(text, "# 1 unit answers on {at}."),
        _ => writeln!(text, "# {count} units answer on {at}."),
    };
    if report.any_unit {
        text.push_str("# It answers to every unit id: one device.\n");
    }
    for settings in &report.noise_at {
        let _ = writeln!(
            text,
            "# At {settings} something was heard that is no Modbus frame: the line is in use."
        );
    }
    if count == 0 && report.settings.is_none() && report.noise_at.is_empty() {
        text.push_str("# Are A and B swapped, is the device on, is its termination right? --timeout 1s waits longer.\n");
    }
    if report.interrupted {
        text.push_str("# The search was ended early: there may be more.\n");
    }
    text
}

fn line_config(report: &Report, settings: Option<&SerialSettings>) -> String {
    let mut text = headline(report);
    let line = report.line.as_deref().unwrap_or("line-1");
    if let Some(settings) = settings {
        let parity = match settings.parity {
            Parity::None => "none",
            Parity::Odd => "odd",
            Parity::Even => "even",
        };
        let _ = write!(
            text,
            "\n[[line]]\nname = \"{line}\"\nport = \"{}\"\nbaud = {}\nparity = \"{parity}\"\nstop_bits = {}\n",
            report.at, settings.baud, settings.stop_bits
        );
    }
    for unit in &report.units {
        device(&mut text, unit, "modbus-rtu", line);
    }
    text
}

fn host_config(report: &Report, target: &Target) -> String {
    let driver = match target {
        Target::RtuOverTcp { .. } => "modbus-rtu-tcp",
        Target::Serial { .. } => "modbus-rtu",
        _ => "modbus-tcp",
    };
    if let (Target::Serial { settings, .. }, None) = (target, &report.line) {
        return line_config(report, Some(settings));
    }
    let mut text = headline(report);
    let address = report.line.as_deref().filter(|_| driver == "modbus-rtu");
    for unit in &report.units {
        device(&mut text, unit, driver, address.unwrap_or(&report.at));
    }
    text
}

fn device(text: &mut String, unit: &UnitReport, driver: &str, address: &str) {
    let _ = write!(
        text,
        "\n[[device]]\nname = \"unit-{}\"\ndriver = \"{driver}\"\naddress = \"{address}\"\nunit_id = {}\npoll_interval = \"1s\"\n",
        unit.unit, unit.unit
    );
    if let Some(identification) = &unit.identification {
        // Whatever a device says stays on the line of the comment.
        let printable: String = identification.chars().filter(|c| !c.is_control()).collect();
        let _ = writeln!(text, "# {printable}");
    }
    for table in &unit.tables {
        let _ = writeln!(text, "# {}", ranges_line(table));
        let key = match table.table {
            "coil" | "discrete" => "max_coils",
            _ => "max_registers",
        };
        if let Some(max) = table.max_quantity {
            let line = format!("{key} = {max}\n");
            if !text.ends_with(&line) {
                text.push_str(&line);
            }
        }
    }
    match &unit.readable {
        Some(address) => {
            let kind = match address.starts_with("coil") || address.starts_with("discrete") {
                true => "bool",
                false => "u16",
            };
            let _ = write!(
                text,
                "\n[[device.tag]]\nname = \"{}\"\naddress = \"{address}\"\ntype = \"{kind}\"\n",
                address.replace(':', "-")
            );
        }
        None => text.push_str("# No readable address is known: add tags from its manual.\n"),
    }
}

fn ranges_line(table: &TableReport) -> String {
    let name = table.table;
    let ranges: Vec<String> = table
        .ranges
        .iter()
        .map(|[first, last]| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    let mut text = match (table.offered, ranges.is_empty()) {
        (false, _) => format!("{name}: not offered"),
        (true, true) => format!("{name}: nothing found"),
        (true, false) => format!("{name}: {}", ranges.join(", ")),
    };
    if let Some(at) = table.gave_up_at {
        let _ = write!(text, "; it stopped answering before {at}");
    }
    text
}

fn units_csv(report: &Report) -> String {
    let mut text = "unit,exception,identification\n".to_owned();
    for unit in &report.units {
        let exception = unit
            .exception
            .map_or(String::new(), |code| code.to_string());
        let who = unit.identification.as_deref().unwrap_or_default();
        let _ = writeln!(
            text,
            "{},{exception},\"{}\"",
            unit.unit,
            who.replace('"', "\"\"")
        );
    }
    text
}

fn ranges_csv(report: &Report) -> String {
    let mut text = "unit,table,first,last\n".to_owned();
    for unit in &report.units {
        for table in &unit.tables {
            for [first, last] in &table.ranges {
                let _ = writeln!(text, "{},{},{first},{last}", unit.unit, table.table);
            }
        }
    }
    text
}

/// Progress on stderr, where that is a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr_with_hz(5),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(
            ProgressStyle::with_template("{bar:30} {percent:>3} % {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self(bar)
    }

    fn say(&self, message: &str) {
        self.0.set_message(message.to_owned());
        self.0.tick();
    }

    fn show(&self, progress: &Progress) {
        self.0.set_length(progress.total as u64);
        self.0.set_position(progress.done as u64);
        let settings = progress.settings.as_ref();
        let settings = settings.map(|settings| format!("{settings}, "));
        self.0.set_message(format!(
            "{}unit {}, at most {} more",
            settings.unwrap_or_default(),
            progress.unit,
            show::seconds(progress.left.as_secs())
        ));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let unit = |unit, readable: Option<&str>| UnitReport {
            unit,
            readable: readable.map(str::to_owned),
            ..UnitReport::default()
        };
        let mut known = unit(17, Some("input:0"));
        known.identification = Some("Ace Meter\n3 v1".into());
        known.tables = vec![
            TableReport {
                table: "holding",
                offered: true,
                ranges: vec![[0, 99], [120, 120]],
                max_quantity: Some(20),
                requests: 61,
                gave_up_at: None,
            },
            TableReport {
                table: "coil",
                offered: false,
                ranges: Vec::new(),
                max_quantity: None,
                requests: 1,
                gave_up_at: None,
            },
        ];
        Report {
            at: "/dev/ttyUSB0".into(),
            settings: Some("38400 8O1".into()),
            units: vec![unit(2, Some("holding:0")), known, unit(200, None)],
            noise_at: vec!["9600 8N1".into()],
            ..Report::default()
        }
    }

    #[test]
    fn configuration_of_a_line() {
        let mut settings = SerialSettings::new("/dev/ttyUSB0");
        settings.baud = 38_400;
        settings.parity = Parity::Odd;
        insta::assert_snapshot!(line_config(&report(), Some(&settings)));
    }

    #[test]
    fn configuration_behind_a_host() {
        let mut found = report();
        found.at = "10.0.0.5:502".into();
        found.settings = None;
        found.noise_at.clear();
        found.interrupted = true;
        let (target, _) = Target::with_unit("10.0.0.5").unwrap();
        insta::assert_snapshot!(host_config(&found, &target));
        insta::assert_snapshot!(ranges_csv(&found));
        insta::assert_snapshot!(units_csv(&found));
    }

    #[test]
    fn nobody_is_an_answer_with_a_next_step() {
        let found = Report {
            at: "/dev/ttyUSB0".into(),
            ..Report::default()
        };
        insta::assert_snapshot!(line_config(&found, None));
    }

    #[test]
    fn lists_are_checked() {
        assert_eq!(units("1,5-7"), Ok(Units(vec![1, 5, 6, 7])));
        assert_eq!(addresses("10-20"), Ok(10..=20));
        assert_eq!(frame("8E2"), Ok((Parity::Even, 2)));
        assert!(units("7-5").is_err() && units("256").is_err() && units("").is_err());
        assert!(addresses("9-1").is_err() && frame("7E1").is_err() && frame("8X1").is_err());
    }
}
