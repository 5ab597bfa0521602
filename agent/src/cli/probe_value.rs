//! `millrace probe-value`: the engineer types what the meter shows, and gets the place, type, order and scale.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use millrace_drivers::modbus::probe::{Block, Fit, Look, NoNumber, Shown, is_settled, rank};
use millrace_drivers::modbus::{Address, Caller, Heard, ReadRequest, Request, Table as Registers};
use serde_json::{Value, json};

use super::advice::failed;
use super::client::block_on;
use super::once::bad;
use super::table::Table;
use super::{Failure, Global, output, reach};

/// How far around one address is looked.
const NEAR: u16 = 50;

/// Registers in one request; some devices give no more.
const BLOCK: u16 = 50;

/// Ways that are shown.
const SHOWN_MAX: usize = 10;

/// Find the address, type, order and scale of a value that a meter shows
///
/// Reads the registers near an address and ranks the ways to read them that show the typed value. Then it
/// takes further values from stdin, one a line, each typed when the meter shows another: what does not fit
/// all of them is left out. It ends with the input, or once only one way is left.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// What the meter shows, with all its digits: 231.4
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    value: String,
    /// The device: `tcp://HOST[:502][/UNIT]`, rtu+tcp://HOST:PORT/UNIT, /dev/ttyUSB0,9600,8E1/3, or its name in the
    /// running agent
    #[arg(long, value_name = "URL")]
    on: String,
    /// An address, or a range: holding:100, holding:0-200, 40101
    #[arg(long, value_name = "ADDRESS")]
    near: String,
    /// How long the unit may take
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Registers of one table, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Near {
    table: Registers,
    first: u16,
    last: u16,
}

impl Near {
    fn parse(text: &str) -> Result<Self, Failure> {
        let (from, to) = match text.split_once('-') {
            Some((from, to)) => (from, Some(to)),
            None => (text, None),
        };
        let at: Address = from
            .parse()
            .map_err(|error: millrace_drivers::modbus::AddressError| bad(&error, error.hint()))?;
        if at.table.is_bits() || at.bit.is_some() {
            return Err(Failure::usage(format!("{text} is no place for a number"))
                .hint("give registers: holding:100 or input:0-50"));
        }
        let last = match to {
            None => return Ok(Self::around(at)),
            // Both in the notation of the first.
            Some(to) if from.contains(':') => to.parse().ok(),
            Some(to) => to.parse::<Address>().ok().map(|last| last.offset),
        };
        match last.filter(|last| *last >= at.offset) {
            Some(last) => Ok(Self {
                table: at.table,
                first: at.offset,
                last,
            }),
            None => Err(Failure::usage(format!("{text} is no range of registers"))
                .hint("for example holding:100-180")),
        }
    }

    fn around(at: Address) -> Self {
        Self {
            table: at.table,
            first: at.offset.saturating_sub(NEAR),
            last: at.offset.saturating_add(NEAR),
        }
    }

    /// Reads what can be read. A block that is refused is read register by register.
    async fn read(self, caller: &mut Caller, unit: u8) -> anyhow::Result<Vec<Block>> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut at = u32::from(self.first);
        let end = u32::from(self.last) + 1;
        while at < end {
            let count = (end - at).min(u32::from(BLOCK)) as u16;
            let start = at as u16;
            at += u32::from(count);
            if !self.block(caller, unit, start, count, &mut blocks).await? {
                for single in start..=start + (count - 1) {
                    self.block(caller, unit, single, 1, &mut blocks).await?;
                }
            }
        }
        Ok(blocks)
    }

    async fn block(
        self,
        caller: &mut Caller,
        unit: u8,
        start: u16,
        count: u16,
        blocks: &mut Vec<Block>,
    ) -> anyhow::Result<bool> {
        let request = Request::Read(ReadRequest {
            table: self.table,
            start,
            count,
        });
        let heard = caller
            .call(unit, &request)
            .await
            .map_err(|error| failed("nothing was read", error))?;
        if heard == Heard::Silence {
            return Err(Failure::new(format!("unit {unit} does not answer"))
                .hint("`millrace scan` finds units")
                .into());
        }
        let Heard::Data(data) = heard else {
            return Ok(false);
        };
        match blocks.last_mut() {
            // Side by side: a value may lie across.
            Some(before)
                if usize::from(before.start) + before.data.len() / 2 == usize::from(start) =>
            {
                before.data.extend(data);
            }
            _ => blocks.push(Block {
                table: self.table,
                start,
                data,
            }),
        }
        Ok(true)
    }
}

impl ProbeArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        block_on(self.probe(global))
    }

    async fn probe(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let near = Near::parse(&self.near)?;
        let mut shown = number(&self.value)?;
        let (mut way, unit) = reach::device_or_target(&self.on, self.timeout, global).await?;
        let mut looks = Vec::new();
        let found = loop {
            let blocks = near.read(&mut way.caller, unit).await?;
            looks.push(Look { shown, blocks });
            let fits = rank(&looks);
            if global.json {
                output::json_line(&report(&fits))?;
            } else {
                output::text(&render(&fits))?;
            }
            if fits.is_empty() || is_settled(&fits) {
                break !fits.is_empty();
            }
            match next()? {
                Some(next) => shown = next,
                None => break true,
            }
        };
        Ok(match found {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

fn number(text: &str) -> Result<Shown, Failure> {
    text.parse()
        .map_err(|error: NoNumber| bad(&error, "type it as the meter shows it: 231.4"))
}

/// The next value that is typed; `None` at the end of the input. A person may mistype it.
fn next() -> anyhow::Result<Option<Shown>> {
    let is_person = std::io::stdin().is_terminal();
    loop {
        if is_person {
            eprint!("Once the meter shows another value, type it (Enter alone ends): ");
        }
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        if line.trim().is_empty() {
            return Ok(None);
        }
        match number(line.trim()) {
            Err(failure) if is_person => eprintln!("{failure}"),
            shown => return Ok(Some(shown?)),
        }
    }
}

fn report(fits: &[Fit]) -> Value {
    let fit = |fit: &Fit| {
        json!({
            "address": fit.spec.address().to_string(),
            "type": fit.spec.data_type().to_string(),
            "order": fit.spec.order().name(),
            "scale": fit.scale,
            "value": fit.value,
            "bits": (fit.bits * 10.0).round() / 10.0,
        })
    };
    let fits_shown: Vec<Value> = fits.iter().take(SHOWN_MAX).map(fit).collect();
    json!({ "fits": fits_shown, "count": fits.len(), "settled": is_settled(fits) })
}

fn render(fits: &[Fit]) -> String {
    let Some(best) = fits.first() else {
        return "Nothing there shows this value. Is it the right unit and table, and did the value stand still?\n"
            .to_owned();
    };
    let mut table = Table::new([">", "ADDRESS", "TYPE", "ORDER", ">SCALE", ">VALUE"]);
    for (nth, fit) in (1..).zip(fits.iter().take(SHOWN_MAX)) {
        table.row([
            format!("{nth}"),
            fit.spec.address().to_string(),
            fit.spec.data_type().to_string(),
            fit.spec.order().name().to_owned(),
            decimal(fit.scale),
            decimal(fit.value),
        ]);
    }
    let mut text = table.render("");
    if fits.len() > SHOWN_MAX {
        text.push_str(&format!("and {} more\n", fits.len() - SHOWN_MAX));
    }
    if is_settled(fits) {
        text.push_str(&format!(
            "\n[[device.tag]]\nname = \"{}\"\naddress = \"{}\"\ntype = \"{}\"\norder = \"{}\"\nscale = {}\n",
            best.spec.address().to_string().replace(':', "-"),
            best.spec.address(),
            best.spec.data_type(),
            best.spec.order(),
            toml_float(best.scale),
        ));
    }
    text
}

/// At most six digits behind the point.
fn decimal(number: f64) -> String {
    let text = format!("{number:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn toml_float(number: f64) -> String {
    let text = number.to_string();
    match text.contains('.') {
        true => text,
        false => format!("{text}.0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(shown: &str, registers: &[u16]) -> Look {
        Look {
            shown: shown.parse().unwrap(),
            blocks: vec![Block {
                table: Registers::Holding,
                start: 100,
                data: registers.iter().flat_map(|r| r.to_be_bytes()).collect(),
            }],
        }
    }

    #[test]
    fn one_way_is_a_tag_to_paste() {
        let fits = rank(&[look("231.4", &[0, 2314, 0xFFFF, 7])]);
        insta::assert_snapshot!(render(&fits));
        assert_eq!(report(&fits)["settled"], true);
        assert_eq!(report(&fits)["fits"][0]["scale"], 0.1);
    }

    #[test]
    fn several_ways_ask_for_another_look() {
        let fits = rank(&[look("7", &[7, 0xABCD, 7, 0xABCD])]);
        let text = render(&fits);
        assert!(!text.contains("[[device.tag]]"), "{text}");
        assert!(text.contains("and "), "{text}");
        assert!(render(&[]).contains("Nothing there"));
    }

    #[test]
    fn places() {
        let near = |text| Near::parse(text).map(|near| (near.table, near.first, near.last));
        let holding = Registers::Holding;
        assert_eq!(near("holding:100").unwrap(), (holding, 50, 150));
        assert_eq!(near("40011").unwrap(), (holding, 0, 60));
        assert_eq!(near("holding:10-20").unwrap(), (holding, 10, 20));
        assert_eq!(near("40011-40021").unwrap(), (holding, 10, 20));
        for text in ["coil:1", "holding:20-10", "holding:1-x", "7"] {
            assert_eq!(near(text).unwrap_err().exit_code(), 2, "{text}");
        }
    }
}
