//! `millrace tape`: a bus recorded, shown, and played as a simulated device.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use millrace_drivers::modbus::tape::{Label, Recorder, Tape};
use millrace_drivers::modbus::trace::{Cutter, Frame};
use millrace_tags::{BootId, Clock, Moment, Timebase};
use serde_json::json;

use super::client::block_on;
use super::interrupt::interrupted;
use super::listen::{Listening, Printer};
use super::trace::{ending, not_there};
use super::{Failure, Global, output, show};

#[cfg(feature = "sim")]
mod play;

/// `tape`: a recorded bus.
#[derive(Debug, Subcommand)]
pub(crate) enum TapeCommand {
    Record(RecordArgs),
    Show(ShowArgs),
    #[cfg(feature = "sim")]
    Play(play::PlayArgs),
    /// Serve a recording as if it were the device (left out of this build)
    #[cfg(not(feature = "sim"))]
    Play(super::later::AnyArgs),
}

/// Record the frames of a device or a line
///
/// Listens in on the running agent, as `trace` does, until Ctrl-C, and writes what goes both ways to a file.
/// `millrace tape play` serves that file as if it were the device; a machine that misbehaves can so be taken home.
#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// A Modbus device or a line of the running agent
    #[arg(value_name = "DEVICE|LINE")]
    name: String,
    /// The tape to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// End after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    for_time: Option<Duration>,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

/// Show the frames of a recording, as `trace` does
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The tape
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl TapeCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            TapeCommand::Record(args) => block_on(args.record(global)),
            TapeCommand::Show(args) => args.show(global),
            #[cfg(feature = "sim")]
            TapeCommand::Play(args) => block_on(args.play(global)),
            #[cfg(not(feature = "sim"))]
            TapeCommand::Play(_) => super::Later::left_out("tape play"),
        }
    }
}

impl RecordArgs {
    async fn record(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let interrupted = interrupted()?;
        let mut listening = Listening::begin(&self.name, global).await?;
        let label = Label {
            kind: listening.kind(),
            begun: is_set(&listening.timebase())
                .then(|| humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
            of: self.name.clone(),
        };
        let file = self.create()?;
        let recorder = Recorder::new(BufWriter::new(file), &label);
        let mut recorder = recorder.map_err(|error| self.not_written(error))?;
        let mut missed = 0;
        let ending = ending(self.for_time, interrupted);
        tokio::pin!(ending);
        let ended = loop {
            let frames = tokio::select! {
                biased;
                frames = listening.next() => frames,
                () = &mut ending => break Ok(()),
            };
            let frames = match frames {
                Ok(Some(frames)) => frames,
                Ok(None) => break Err(not_there(&self.name).into()),
                Err(error) => break Err(error),
            };
            missed += self.write(&mut recorder, &frames)?;
        };
        missed += self.write(&mut recorder, &listening.end())?;
        let records = recorder.records();
        recorder.finish().map_err(|error| self.not_written(error))?;
        self.tell(records, missed, global)?;
        // What was recorded until then is whole.
        ended.map(|()| ExitCode::SUCCESS)
    }

    fn create(&self) -> Result<File, Failure> {
        let mut options = File::options();
        options.write(true);
        match self.force {
            true => options.create(true).truncate(true),
            false => options.create_new(true),
        };
        options.open(&self.file).map_err(|error| {
            let exists = error.kind() == std::io::ErrorKind::AlreadyExists;
            let failure = Failure::usage(format!("cannot write {}", self.file.display()));
            match exists {
                true => failure.hint("--force writes over it"),
                false => failure,
            }
            .because(error)
        })
    }

    /// Writes frames through to the file; how many pieces were missed.
    fn write(
        &self,
        recorder: &mut Recorder<BufWriter<File>>,
        frames: &[Frame],
    ) -> Result<u64, Failure> {
        let mut missed = 0;
        for frame in frames {
            missed += frame.missed;
            recorder
                .record(frame)
                .map_err(|error| self.not_written(error))?;
        }
        // A recording that is cut off has all but its last moments.
        recorder.flush().map_err(|error| self.not_written(error))?;
        Ok(missed)
    }

    fn not_written(&self, error: std::io::Error) -> Failure {
        Failure::new(format!("cannot write {}", self.file.display()))
            .because(error)
            .hint("what was written so far can be played")
    }

    fn tell(&self, records: u64, missed: u64, global: &Global) -> anyhow::Result<()> {
        if global.json {
            let file = self.file.display().to_string();
            return output::json(&json!({ "file": file, "frames": records, "missed": missed }));
        }
        let missed = match missed {
            0 => String::new(),
            missed => format!("; {} pieces were missed", show::count(missed)),
        };
        let told = format!(
            "{} frames in {}{missed}\n",
            show::count(records),
            self.file.display()
        );
        Ok(output::text(&told)?)
    }
}

fn is_set(timebase: &Timebase) -> bool {
    timebase.offset_ns.is_some()
}

impl ShowArgs {
    fn show(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let tape = read(&self.file)?;
        let mut cutter = Cutter::new(tape.label.kind);
        let mut printer = Printer::new(tape.label.kind, timebase(&tape));
        let mut print = |frames: Vec<Frame>| -> anyhow::Result<()> {
            for frame in frames {
                match global.json {
                    true => output::json_line(&printer.json(&frame)?)?,
                    false => output::text(&printer.text(&frame))?,
                }
            }
            Ok(())
        };
        for piece in tape.pieces() {
            print(cutter.take(&piece))?;
        }
        print(cutter.take_broken_off(Moment(i64::MAX)))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The beginning of the tape in UTC, where it is known.
fn timebase(tape: &Tape) -> Timebase {
    let begun = tape.label.begun.as_deref();
    let begun = begun.and_then(|text| humantime::parse_rfc3339(text).ok());
    let since_1970 = begun.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let BootId(boot) = millrace_tags::SystemClock::new().timebase().boot;
    Timebase {
        boot: BootId(boot),
        offset_ns: since_1970.and_then(|since| i64::try_from(since.as_nanos()).ok()),
    }
}

/// Reads a tape; one that was cut off says so on stderr.
fn read(path: &Path) -> anyhow::Result<Tape> {
    let file = File::open(path).map_err(|error| {
        Failure::usage(format!("cannot open {}", path.display())).because(error)
    })?;
    let tape = Tape::read(BufReader::new(file)).map_err(|error| {
        let hint = error.hint();
        Failure::usage(format!("cannot use {}", path.display()))
            .because(error)
            .hint(hint)
    })?;
    if tape.is_cut_off {
        eprintln!(
            "{} has no end: the recording was cut off; its {} frames are used",
            path.display(),
            tape.records.len()
        );
    }
    Ok(tape)
}
