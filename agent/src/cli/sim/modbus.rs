//! `millrace sim modbus`: Modbus devices from a register map, a recording, or plain counters.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use millrace_drivers::modbus::SerialSettings;
use millrace_drivers::sim::modbus::{
    Advance, Faults, Listen, RegisterMap, Replay, SimModbus, SimUnit, print_tags_csv,
    print_tags_toml,
};

use super::super::client::block_on;
use super::super::interrupt::interrupted;
use super::super::target::Target;
use super::super::{Failure, Global, output};

/// Modbus devices over TCP or on a serial line
///
/// Without --map and --replay it has --tags counters of type u32 from holding:0 on. What is written stays.
/// It runs until Ctrl-C and then says how many values it served.
#[derive(Debug, Args)]
pub(crate) struct ModbusArgs {
    /// How it is reached; rtu makes a serial port without wires and prints its path
    #[arg(long, value_name = "WHAT", default_value = "tcp")]
    transport: Transport,
    /// The only settings that units on a serial port understand, such as 38400,8O1; any if left out
    #[arg(long, value_name = "BAUD,FRAME", value_parser = line_settings)]
    line: Option<SerialSettings>,
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:1502")]
    listen: String,
    /// Unit ids that answer, each with registers of its own: 1,2,5-7; all, as one device, if left out
    #[arg(long, value_name = "LIST", value_parser = unit_list)]
    units: Option<UnitList>,
    /// Registers from CSV: name,address,type,order,signal,unit; the last three are optional
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tags", "replay"])]
    map: Option<PathBuf>,
    /// So many counters instead of a map
    #[arg(long, value_name = "N", default_value_t = 100)]
    tags: u16,
    /// Registers from one counter to the next
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..))]
    stride: u16,
    /// Serve a recording: CSV with a time column, then one column a tag, as f32 from holding:0 on
    #[arg(long, value_name = "FILE", conflicts_with = "tags")]
    replay: Option<PathBuf>,
    /// What brings the next row of the recording
    #[arg(long, value_name = "WHAT", default_value = "tick", requires = "replay")]
    advance: AdvanceBy,
    /// From one row, or one count, to the next
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    tick: Duration,
    /// So many times faster than --tick
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    speed: f64,
    /// Misbehave: 'latency 20ms', 'hole holding:10+4', 'late 2s every 10', 'crc 2%', and of one unit alone
    /// 'unit 3: silent every 1' …; may be given several times
    #[arg(long, value_name = "WORDS")]
    fault: Vec<String>,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the configuration of an agent that reads this device, and end
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, default_missing_value = "toml")]
    print_config: Option<ConfigFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// Modbus TCP
    Tcp,
    /// A serial line, as a pseudo-terminal
    Rtu,
    /// Frames of a serial line over TCP
    RtuTcp,
}

/// Unit ids, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UnitList(Vec<u8>);

/// `38400,8O1`
fn line_settings(text: &str) -> Result<SerialSettings, String> {
    let settings = || {
        let (baud, frame) = text.split_once(',')?;
        let mut settings = SerialSettings::new("");
        settings.baud = baud.parse().ok()?;
        (settings.parity, settings.stop_bits) = Target::frame(frame)?;
        Some(settings)
    };
    settings().ok_or_else(|| format!("{text:?} is no line such as 38400,8O1"))
}

/// `1,2,5-7`
fn unit_list(text: &str) -> Result<UnitList, String> {
    let id = |text: &str| -> Option<u8> {
        let id = text.trim().parse().ok();
        id.filter(|id| (1..=247).contains(id))
    };
    let mut units: Vec<u8> = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match id(first).zip(id(last)) {
            Some((first, last)) if first <= last => units.extend(first..=last),
            _ => {
                return Err(format!(
                    "{part:?} is no unit id from 1 to 247, nor a range of them"
                ));
            }
        }
    }
    Ok(UnitList(units))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AdvanceBy {
    /// Time
    Tick,
    /// A read of the last register: every row is served exactly once
    Read,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConfigFormat {
    /// A `[[device]]` table
    Toml,
    /// A tags_file
    Csv,
}

impl ModbusArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let units = self.sim_units()?;
        if let Some(format) = self.print_config {
            self.print(format, &units)?;
            return Ok(ExitCode::SUCCESS);
        }
        block_on(self.serve(units, global))
    }

    fn print(&self, format: ConfigFormat, units: &[SimUnit]) -> anyhow::Result<()> {
        if self.transport != Transport::Tcp {
            let failure =
                Failure::usage("--print-config knows the configuration of --transport tcp");
            return Err(failure
                .hint("leave out --transport and change driver and address")
                .into());
        }
        for unit in units {
            let name = unit.id.map_or("sim".to_owned(), |id| format!("sim-{id}"));
            output::text(&match format {
                ConfigFormat::Toml => {
                    let toml = print_tags_toml(&unit.map, &name, &self.listen);
                    let id = format!("unit_id = {}\n", unit.id.unwrap_or(1));
                    toml.replacen("unit_id = 1\n", &id, 1)
                }
                ConfigFormat::Csv => print_tags_csv(&unit.map),
            })?;
        }
        Ok(())
    }

    async fn serve(&self, units: Vec<SimUnit>, global: &Global) -> anyhow::Result<ExitCode> {
        let first = units.first().and_then(|unit| unit.id).unwrap_or(1);
        let listen = match self.transport {
            Transport::Tcp => Listen::Tcp(self.listen.clone()),
            Transport::RtuTcp => Listen::RtuOverTcp(self.listen.clone()),
            Transport::Rtu => match &self.line {
                Some(settings) => Listen::PtyAt(settings.clone()),
                None => Listen::Pty,
            },
        };
        let device = SimModbus::start(&listen, units, self.seed).map_err(|error| {
            let failure = Failure::new(match listen {
                Listen::Pty | Listen::PtyAt(_) => "cannot make a pseudo-terminal".to_owned(),
                _ => format!("cannot listen on {}", self.listen),
            });
            failure
                .because(error)
                .hint("another program may have the port; --listen 127.0.0.1:0 takes a free one")
        })?;
        let interrupted = interrupted()?;
        let address = device.address();
        let url = match self.transport {
            Transport::Tcp => format!("tcp://{address}/{first}"),
            Transport::RtuTcp => format!("rtu-tcp://{address}/{first}"),
            Transport::Rtu => address.to_owned(),
        };
        super::say_ready(&url, global)?;
        interrupted.await;
        let (served, counts) = (device.served(), device.counts());
        device.shutdown().await;
        let tags = served.tags.iter().map(|(name, count)| (&**name, *count));
        super::say_served(served.total, tags, global)?;
        super::say_faults(&counts.faults);
        Ok(ExitCode::SUCCESS)
    }

    /// The units that answer, with the faults of each.
    fn sim_units(&self) -> anyhow::Result<Vec<SimUnit>> {
        let mut units = Vec::new();
        for (id, map) in self.register_maps()? {
            let ids = match (&self.units, id) {
                (Some(UnitList(ids)), None) => ids.iter().copied().map(Some).collect(),
                _ => vec![id],
            };
            for id in ids {
                let (map, faults) = (map.clone(), self.faults(id)?);
                units.push(SimUnit { id, map, faults });
            }
        }
        Ok(units)
    }

    fn register_maps(&self) -> anyhow::Result<BTreeMap<Option<u8>, RegisterMap>> {
        if let Some(path) = &self.map {
            return RegisterMap::units_from_csv(open(path)?)
                .map_err(|error| wrong(path, error.hint(), error).into());
        }
        Ok(BTreeMap::from([(None, self.register_map()?)]))
    }

    fn register_map(&self) -> anyhow::Result<RegisterMap> {
        if let Some(path) = &self.replay {
            let replay = Replay::from_csv(open(path)?, self.advance()?)
                .map_err(|error| wrong(path, error.hint().to_owned(), error))?;
            return RegisterMap::replay(replay)
                .map_err(|error| wrong(path, error.hint(), error).into());
        }
        RegisterMap::ticks(self.tags, self.stride, self.interval()?).map_err(|error| {
            let failure = Failure::usage(format!("{} counters do not fit", self.tags));
            failure.hint(error.hint()).because(error).into()
        })
    }

    fn advance(&self) -> anyhow::Result<Advance> {
        Ok(match self.advance {
            AdvanceBy::Read => Advance::Read,
            AdvanceBy::Tick => Advance::Tick {
                interval: self.interval()?,
            },
        })
    }

    fn interval(&self) -> anyhow::Result<Duration> {
        let interval = Duration::try_from_secs_f64(self.tick.as_secs_f64() / self.speed);
        interval.ok().filter(|d| !d.is_zero()).ok_or_else(|| {
            Failure::usage(format!("--speed {} makes no interval", self.speed))
                .hint("give a number above 0; 2 is twice as fast")
                .into()
        })
    }

    /// Those of this unit.
    fn faults(&self, unit: Option<u8>) -> anyhow::Result<Faults> {
        let mut faults = Faults::default();
        for given in &self.fault {
            let (of, words) = match given.strip_prefix("unit ").and_then(|g| g.split_once(':')) {
                Some((id, words)) => (Some(id.trim()), words),
                None => (None, given.as_str()),
            };
            if of.is_some_and(|id| id.parse().ok() != unit) {
                continue;
            }
            faults
                .add(words)
                .map_err(|e| Failure::usage(e.to_string()).hint(e.hint()))?;
        }
        Ok(faults)
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).map_err(|error| {
        Failure::usage(format!("cannot open {}", path.display()))
            .because(error)
            .into()
    })
}

fn wrong(
    path: &Path,
    hint: String,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Failure {
    Failure::usage(format!("cannot use {}", path.display()))
        .because(error)
        .hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure;
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: ModbusArgs,
    }

    fn typed(words: &[&str]) -> ModbusArgs {
        Typed::try_parse_from([&["sim"], words].concat())
            .unwrap()
            .args
    }

    #[test]
    fn counters_are_the_default() {
        let map = typed(&["--tags", "3"]).register_map().unwrap();
        let names: Vec<&str> = map.entries().iter().map(|e| &*e.name).collect();
        assert_eq!(names, ["t0", "t1", "t2"]);
    }

    #[test]
    fn speed_divides_the_tick() {
        let args = typed(&["--tick", "1s", "--speed", "4"]);
        assert_eq!(args.interval().unwrap(), Duration::from_millis(250));
        for speed in ["0", "-1", "nan"] {
            let args = typed(&[&format!("--speed={speed}")]);
            assert!(args.interval().is_err(), "{speed}");
        }
    }

    #[test]
    fn a_bad_file_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plant.csv");
        std::fs::write(&path, "time,a\n0,1\n1,x\n").unwrap();
        let args = typed(&["--replay", path.to_str().unwrap()]);
        let text = failure::text(&args.register_map().unwrap_err());
        assert!(text.contains("plant.csv: line 3"), "{text}");
        assert!(text.contains("hint: "), "{text}");
        let missing = typed(&["--map", "/nonexistent/map.csv"]);
        let text = failure::text(&missing.register_maps().unwrap_err());
        assert!(text.contains("/nonexistent/map.csv"), "{text}");
    }

    #[test]
    fn fault_words_are_checked() {
        assert!(typed(&["--fault", "latency 20ms"]).faults(None).is_ok());
        let error = typed(&["--fault", "naughty"]).faults(None).unwrap_err();
        assert!(failure::text(&error).contains("hint: the faults are"));
    }

    #[test]
    fn units_have_faults_of_their_own() {
        let args = typed(&["--units", "1,5-6", "--fault", "unit 5: silent every 1"]);
        let units = args.sim_units().unwrap();
        let faulty: Vec<(Option<u8>, bool)> = units
            .iter()
            .map(|unit| (unit.id, unit.faults != Faults::default()))
            .collect();
        assert_eq!(
            faulty,
            [(Some(1), false), (Some(5), true), (Some(6), false)]
        );
        for list in ["", "0", "3-1", "248", "1;2"] {
            assert!(unit_list(list).is_err(), "{list}");
        }
    }

    #[test]
    fn options_that_exclude_each_other() {
        for words in [
            vec!["--map", "a", "--replay", "b"],
            vec!["--map", "a", "--tags", "3"],
            vec!["--advance", "read"],
            vec!["--stride", "1"],
        ] {
            assert!(
                Typed::try_parse_from([&["sim"], &words[..]].concat()).is_err(),
                "{words:?}"
            );
        }
    }
}
