//! `millrace sim modbus`: a Modbus TCP device from a register map, a recording, or plain counters.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use millrace_drivers::sim::modbus::{
    Advance, Faults, RegisterMap, Replay, SimModbus, print_tags_csv, print_tags_toml,
};

use super::super::client::block_on;
use super::super::interrupt::interrupted;
use super::super::{Failure, Global, output};

/// A Modbus TCP device that answers every unit id
///
/// Without --map and --replay it has --tags counters of type u32 from holding:0 on. It runs until Ctrl-C
/// and then says how many values it served.
#[derive(Debug, Args)]
pub(crate) struct ModbusArgs {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:1502")]
    listen: String,
    /// Registers from CSV: name,address,type,order,signal
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
    /// Misbehave: 'latency 20ms', 'hole holding:10+4', 'late 2s every 10' …; may be given several times
    #[arg(long, value_name = "WORDS")]
    fault: Vec<String>,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the configuration of an agent that reads this device, and end
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, default_missing_value = "toml")]
    print_config: Option<ConfigFormat>,
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
        let map = self.register_map()?;
        if let Some(format) = self.print_config {
            output::text(&match format {
                ConfigFormat::Toml => print_tags_toml(&map, "sim", &self.listen),
                ConfigFormat::Csv => print_tags_csv(&map),
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let faults = self.faults()?;
        block_on(self.serve(map, faults, global))
    }

    async fn serve(
        &self,
        map: RegisterMap,
        faults: Faults,
        global: &Global,
    ) -> anyhow::Result<ExitCode> {
        let device =
            SimModbus::bind_seeded(&self.listen, map, faults, self.seed).map_err(|error| {
                Failure::new(format!("cannot listen on {}", self.listen))
                    .because(error)
                    .hint(
                        "another program may have the port; --listen 127.0.0.1:0 takes a free one",
                    )
            })?;
        let interrupted = interrupted()?;
        super::say_ready(&format!("tcp://{}/1", device.local_addr()), global)?;
        interrupted.await;
        let served = device.served();
        device.shutdown().await;
        let tags = served.tags.iter().map(|(name, count)| (&**name, *count));
        super::say_served(served.total, tags, global)?;
        Ok(ExitCode::SUCCESS)
    }

    fn register_map(&self) -> anyhow::Result<RegisterMap> {
        if let Some(path) = &self.replay {
            let replay = Replay::from_csv(open(path)?, self.advance()?)
                .map_err(|error| wrong(path, error.hint().to_owned(), error))?;
            return RegisterMap::replay(replay)
                .map_err(|error| wrong(path, error.hint(), error).into());
        }
        if let Some(path) = &self.map {
            return RegisterMap::from_csv(open(path)?)
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

    fn faults(&self) -> anyhow::Result<Faults> {
        let mut faults = Faults::default();
        for words in &self.fault {
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
        let text = failure::text(&missing.register_map().unwrap_err());
        assert!(text.contains("/nonexistent/map.csv"), "{text}");
    }

    #[test]
    fn fault_words_are_checked() {
        assert!(typed(&["--fault", "latency 20ms"]).faults().is_ok());
        let error = typed(&["--fault", "naughty"]).faults().unwrap_err();
        assert!(failure::text(&error).contains("hint: the faults are"));
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
