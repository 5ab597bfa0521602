//! What a scan prints: configuration that runs as it is, or CSV.

use std::fmt::Write as _;
use std::path::Path;

use millrace_drivers::modbus::{Parity, SerialSettings};

use super::super::target::Target;
use super::report::{Report, TableReport, UnitReport};

/// The name of a port that stays when adapters are plugged in another order.
pub(super) fn stable_name(port: &str) -> String {
    let by_id = Path::new("/dev/serial/by-id");
    let real = Path::new(port).canonicalize().ok();
    let names = std::fs::read_dir(by_id).into_iter().flatten().flatten();
    names
        .map(|entry| entry.path())
        .find(|path| real.is_some() && path.canonicalize().ok() == real)
        .map_or_else(|| port.to_owned(), |path| path.display().to_string())
}

pub(super) fn headline(report: &Report) -> String {
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
    } else if let Some(code) = report.others_refuse {
        let _ = writeln!(
            text,
            "# For every other unit id it answers exception {code:02}."
        );
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

pub(super) fn line_config(report: &Report, settings: Option<&SerialSettings>) -> String {
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

pub(super) fn host_config(report: &Report, target: &Target) -> String {
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

pub(super) fn device(text: &mut String, unit: &UnitReport, driver: &str, address: &str) {
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

pub(super) fn ranges_line(table: &TableReport) -> String {
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

pub(super) fn units_csv(report: &Report) -> String {
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

pub(super) fn ranges_csv(report: &Report) -> String {
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
}
