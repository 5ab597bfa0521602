//! `[gateway]`: who this gateway is and where it keeps its data.

use std::path::PathBuf;

use super::files::FileUse;
use super::keys::{KeyDoc, Kind, SectionDoc};
use super::names;
use super::section::Section;
use super::tree::Table;

/// Where data are kept where nothing is written: the directory that the package creates.
pub(crate) const DATA_DIR: &str = "/var/lib/millrace";

/// The table of keys.
pub(crate) const GATEWAY: SectionDoc = SectionDoc {
    heading: "[gateway]",
    keys: &[
        KeyDoc::new(
            "id",
            Kind::Form("a name of letters, digits, . _ and -"),
            "The gateway's name in topics and messages.",
        )
        .means("the host name"),
        KeyDoc::new(
            "data_dir",
            Kind::File,
            "The directory of the buffer, the cloud's configuration, models, keys and secrets. Local \
             files only; `--data-dir` wins over it.",
        )
        .means("/var/lib/millrace"),
        KeyDoc::new(
            "clock",
            Kind::Choice(&["auto", "trusted"]),
            "Whether the wall clock is right. `auto`: where systemd-timesyncd runs, once that has synchronized it, a \
             real-time clock holds a time, or somebody has set it while the agent ran; until then samples carry no UTC time. \
             `trusted`: it is, unless it is before 2025; for gateways without a real-time clock that something else sets.",
        )
        .default("auto"),
        KeyDoc::new(
            "status_led",
            Kind::File,
            "The directory of an LED, such as `/sys/class/leds/ACT`: on where all is well, blinking slowly while the \
             gateway waits for its core or broker, fast where somebody has to do something.",
        ),
        KeyDoc::new(
            "models_cpu_percent",
            Kind::Integer { min: 1, max: 400 },
            "Processor time that scoring by all models together may take, in percent of one core. Windows that do not fit in are \
             not scored, and counted. A quarter of a core is some hundred models at 1 Hz, and leaves a gateway with one core to \
             polling and delivery.",
        )
        .default("25"),
    ],
};

/// Who this gateway is and where it keeps its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gateway {
    /// The name in topics and messages.
    pub(crate) id: String,
    /// The directory of everything that is kept.
    pub(crate) data_dir: PathBuf,
    /// Somebody says that the wall clock is right.
    pub(crate) clock_trusted: bool,
    /// The directory of the LED that shows how it is.
    pub(crate) status_led: Option<PathBuf>,
    /// Percent of one core for all models together.
    pub(crate) models_cpu_percent: u32,
}

impl Gateway {
    /// Reads the table; the data directory is known already, since the cloud layer is in it.
    pub(crate) fn read(section: &Section<'_>, data_dir: PathBuf) -> Option<Self> {
        section.finish(None);
        let id = if section.has("id") {
            names::plain_name(section, "id")?
        } else {
            host_name()
        };
        let models_cpu_percent = section.integer("models_cpu_percent");
        let clock = section.choice("clock");
        let status_led = match section.has("status_led") {
            true => Some(section.file("status_led", FileUse::Led)?),
            false => None,
        };
        Some(Self {
            id,
            data_dir,
            clock_trusted: clock? == "trusted",
            status_led,
            models_cpu_percent: models_cpu_percent?,
        })
    }
}

/// The data directory that a local `[gateway]` table names, resolved against its file.
pub(crate) fn written_data_dir(table: &Table) -> Option<PathBuf> {
    let node = table.get("data_dir")?;
    let text = node.as_text().filter(|text| !text.is_empty())?;
    Some(node.place.file.parent()?.join(text))
}

/// The host name as a gateway id. A machine without a usable one is called `gateway`.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match names::check(name.trim(), false) {
        Ok(()) => name.trim().to_owned(),
        Err(_) => "gateway".to_owned(),
    }
}
