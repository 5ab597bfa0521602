//! `millrace tape play`: a recording as a simulated device.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use millrace_drivers::modbus::trace::Kind;
use millrace_drivers::sim::modbus::{Listen, PlayedTape, TapeDevice};
use serde_json::json;

use super::{Failure, Global, interrupted, output, show};

/// Serve a recording as if it were the device
///
/// The same requests get the recorded replies, in their order and as late as they were, faults and all; after the last
/// of them the last good one again and again. It runs until Ctrl-C and then says what it was asked.
#[derive(Debug, Args)]
pub(crate) struct PlayArgs {
    /// The tape
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How it is reached [default: as it was recorded]; rtu makes a serial port without wires and prints its path
    #[arg(long, value_name = "WHAT")]
    transport: Option<Transport>,
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:1502")]
    listen: String,
    /// Answer at once, not as late as the device did
    #[arg(long)]
    at_once: bool,
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

impl PlayArgs {
    pub(super) async fn play(&self, global: &Global) -> anyhow::Result<ExitCode> {
        super::super::init_logs("warn");
        let tape = super::read(&self.file)?;
        let transport = self.transport(tape.label.kind)?;
        let device = TapeDevice::new(&tape);
        let Some(first) = device.units().next() else {
            let failure = Failure::new(format!("nothing was asked on {}", self.file.display()));
            return Err(failure
                .hint("record for longer, while the agent polls the device")
                .into());
        };
        let listen = match transport {
            Transport::Tcp => Listen::Tcp(self.listen.clone()),
            Transport::Rtu => Listen::Pty,
            Transport::RtuTcp => Listen::RtuOverTcp(self.listen.clone()),
        };
        let played = PlayedTape::start(&listen, device, self.at_once).map_err(|error| {
            let failure = Failure::new(match listen {
                Listen::Pty => "cannot make a pseudo-terminal".to_owned(),
                _ => format!("cannot listen on {}", self.listen),
            });
            failure
                .because(error)
                .hint("another program may have the port; --listen 127.0.0.1:0 takes a free one")
        })?;
        let interrupted = interrupted()?;
        let address = played.address();
        let url = match transport {
            Transport::Tcp => format!("tcp://{address}/{first}"),
            Transport::RtuTcp => format!("rtu+tcp://{address}/{first}"),
            Transport::Rtu => address.to_owned(),
        };
        match global.json {
            true => output::json_line(&json!({ "ready": url }))?,
            false => output::text(&format!("ready {url}\n"))?,
        }
        interrupted.await;
        let counts = played.counts();
        played.shutdown().await;
        if global.json {
            let told = json!({ "requests": counts.requests, "unknown": counts.unknown });
            output::json_line(&told)?;
        } else {
            output::text(&format!(
                "answered {} requests, {} of them not on the tape\n",
                show::count(counts.requests),
                show::count(counts.unknown)
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Frames of one kind cannot be played as the other: their faults have no counterpart.
    fn transport(&self, kind: Kind) -> Result<Transport, Failure> {
        let (suits, default): (&[Transport], _) = match kind {
            Kind::Tcp => (&[Transport::Tcp], Transport::Tcp),
            Kind::Rtu => (&[Transport::Rtu, Transport::RtuTcp], Transport::Rtu),
        };
        match self.transport {
            None => Ok(default),
            Some(asked) if suits.contains(&asked) => Ok(asked),
            Some(_) => Err(Failure::usage(format!(
                "{} holds {} frames",
                self.file.display(),
                kind.name()
            ))
            .hint(match kind {
                Kind::Tcp => "--transport tcp",
                Kind::Rtu => "--transport rtu or rtu-tcp",
            })),
        }
    }
}
