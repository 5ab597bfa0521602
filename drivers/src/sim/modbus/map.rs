//! Which tags a simulated device has.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use super::replay::Replay;
use crate::modbus::{Address, DataType, PointError, PointSpec, Table, WordOrder};
use crate::sim::signal::{Signal, SignalError};

/// The columns of a map as CSV; the last three may be left out.
const COLUMNS: [&str; 6] = ["name", "address", "type", "order", "signal", "unit"];

/// The highest unit id of a serial line.
const UNIT_MAX: u8 = 247;

/// What a tag without a signal does.
const SIGNAL: Signal = Signal::Tick(Duration::from_secs(1));

/// One tag of a simulated device.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: Arc<str>,
    /// Where it lives and how it is encoded.
    pub spec: PointSpec,
    /// What it is worth.
    pub source: Source,
}

/// Where an entry's values come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A signal of its own.
    Signal(Signal),
    /// A column of the map's recording.
    Column(usize),
}

/// The tags of a simulated device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RegisterMap {
    entries: Vec<Entry>,
    replay: Option<Replay>,
}

/// Why a map is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The text is not CSV.
    #[error("the register map cannot be read as CSV")]
    Csv(#[source] csv::Error),
    /// A column is missing or unknown.
    #[error("the register map has the columns {found:?}")]
    Columns {
        /// The header.
        found: Vec<String>,
    },
    /// A field of a line does not say what it should.
    #[error("line {line} of the register map, {column}: {message}")]
    Field {
        /// The line, counted from 1.
        line: u64,
        /// The column.
        column: &'static str,
        /// What is wrong.
        message: String,
        /// What to write instead.
        hint: String,
    },
    /// Two tags have one name.
    #[error("two tags are named {name}")]
    Name {
        /// The name.
        name: Arc<str>,
    },
    /// Two tags share registers, and not as bits of one.
    #[error("{first} and {second} overlap")]
    Overlap {
        /// The name of one.
        first: Arc<str>,
        /// The name of the other.
        second: Arc<str>,
    },
}

impl MapError {
    /// What to change.
    pub fn hint(&self) -> String {
        match self {
            MapError::Csv(_) => "give it a header line and commas".to_owned(),
            MapError::Columns { .. } => {
                "the columns are name, address, type, order, signal and unit; the last three are optional"
                    .to_owned()
            }
            MapError::Field { hint, .. } => hint.clone(),
            MapError::Name { .. } => "rename one".to_owned(),
            MapError::Overlap { .. } => "move one, or make both bits of one register".to_owned(),
        }
    }
}

impl RegisterMap {
    /// A device without tags.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tag.
    ///
    /// # Errors
    /// The name is taken, or registers are.
    pub fn add(
        &mut self,
        name: impl Into<Arc<str>>,
        spec: PointSpec,
        signal: Signal,
    ) -> Result<(), MapError> {
        self.entries.push(Entry {
            name: name.into(),
            spec,
            source: Source::Signal(signal),
        });
        self.check()
    }

    /// `count` tags `t0`, `t1` … of type u32, one every `stride` holding registers (2 packs them), each
    /// counting periods.
    ///
    /// # Errors
    /// They overlap or do not fit into the table.
    pub fn ticks(count: u16, stride: u16, period: Duration) -> Result<Self, MapError> {
        let mut map = Self::new();
        for i in 0..count {
            let offset = u32::from(i) * u32::from(stride);
            let address = Address {
                table: Table::Holding,
                offset: u16::try_from(offset).unwrap_or(u16::MAX),
                bit: None,
            };
            let spec = PointSpec::new(address, DataType::U32, WordOrder::Abcd);
            map.entries.push(Entry {
                name: format!("t{i}").into(),
                spec: spec.map_err(|error| point_error(u64::from(i), &error))?,
                source: Source::Signal(Signal::Tick(period)),
            });
        }
        map.check()?;
        Ok(map)
    }

    /// The columns of a recording as f32 in consecutive holding registers from 0.
    ///
    /// # Errors
    /// Two columns have one name, or there are more than fit.
    pub fn replay(replay: Replay) -> Result<Self, MapError> {
        let mut map = Self::new();
        for (i, name) in replay.columns().iter().enumerate() {
            let address = Address {
                table: Table::Holding,
                offset: u16::try_from(i * 2).unwrap_or(u16::MAX),
                bit: None,
            };
            let spec = PointSpec::new(address, DataType::F32, WordOrder::Abcd);
            map.entries.push(Entry {
                name: Arc::clone(name),
                spec: spec.map_err(|error| point_error(1, &error))?,
                source: Source::Column(i),
            });
        }
        map.replay = Some(replay);
        map.check()?;
        Ok(map)
    }

    /// Reads a map from CSV with the columns name, address, type, order, signal. Of several units it takes
    /// the first.
    ///
    /// # Errors
    /// The first line that is wrong, with its column.
    pub fn from_csv(text: impl Read) -> Result<Self, MapError> {
        let units = Self::units_from_csv(text)?;
        Ok(units.into_values().next().unwrap_or_default())
    }

    /// Reads the maps of several units from CSV with a further column, unit. A line without one belongs
    /// to the unit `None`.
    ///
    /// # Errors
    /// The first line that is wrong, with its column.
    pub fn units_from_csv(text: impl Read) -> Result<BTreeMap<Option<u8>, Self>, MapError> {
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_reader(text);
        let header = reader.headers().map_err(MapError::Csv)?.clone();
        let known = header.iter().all(|column| COLUMNS.contains(&column));
        let complete = COLUMNS[..3].iter().all(|c| header.iter().any(|h| h == *c));
        if !known || !complete {
            return Err(MapError::Columns {
                found: header.iter().map(str::to_owned).collect(),
            });
        }
        let mut units: BTreeMap<Option<u8>, Self> = BTreeMap::new();
        for record in reader.records() {
            let record = record.map_err(MapError::Csv)?;
            let unit = unit(&header, &record)?;
            let map = units.entry(unit).or_default();
            map.entries.push(entry(&header, &record)?);
        }
        for map in units.values() {
            map.check()?;
        }
        Ok(units)
    }

    /// The tags, as they were given.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn into_parts(self) -> (Vec<Entry>, Option<Replay>) {
        (self.entries, self.replay)
    }

    /// No name twice, no register twice.
    fn check(&self) -> Result<(), MapError> {
        let mut names = HashSet::new();
        if let Some(twice) = self.entries.iter().find(|e| !names.insert(&e.name)) {
            let name = Arc::clone(&twice.name);
            return Err(MapError::Name { name });
        }
        let mut sorted: Vec<&Entry> = self.entries.iter().collect();
        sorted.sort_by_key(|entry| entry.spec.address());
        match sorted.windows(2).find(|pair| clash(pair[0], pair[1])) {
            Some(pair) => Err(MapError::Overlap {
                first: Arc::clone(&pair[0].name),
                second: Arc::clone(&pair[1].name),
            }),
            None => Ok(()),
        }
    }
}

/// Whether two entries, sorted by place, hold the same register and are not different bits of it.
fn clash(before: &Entry, entry: &Entry) -> bool {
    let (a, b) = (before.spec.address(), entry.spec.address());
    let share = a.table == b.table && before.spec.end() > entry.spec.start();
    share && (a.bit.is_none() || b.bit.is_none() || a.bit == b.bit)
}

fn unit(header: &csv::StringRecord, record: &csv::StringRecord) -> Result<Option<u8>, MapError> {
    let at = header.iter().position(|h| h == "unit");
    let field = at.and_then(|at| record.get(at)).unwrap_or("");
    if field.is_empty() {
        return Ok(None);
    }
    let unit = field
        .parse()
        .ok()
        .filter(|unit| (1..=UNIT_MAX).contains(unit));
    unit.map(Some).ok_or_else(|| MapError::Field {
        line: record.position().map_or(0, csv::Position::line),
        column: "unit",
        message: format!("{field:?} is no unit id"),
        hint: format!("unit ids are from 1 to {UNIT_MAX}; leave it empty to answer every id"),
    })
}

fn entry(header: &csv::StringRecord, record: &csv::StringRecord) -> Result<Entry, MapError> {
    let line = record.position().map_or(0, csv::Position::line);
    let field = |column: &'static str| {
        let at = header.iter().position(|h| h == column);
        at.and_then(|at| record.get(at)).unwrap_or("")
    };
    let wrong = |column: &'static str, message: String, hint: String| MapError::Field {
        line,
        column,
        message,
        hint,
    };
    if field("name").is_empty() {
        return Err(wrong(
            "name",
            "it is empty".to_owned(),
            "every tag has a name".to_owned(),
        ));
    }
    let address = field("address").parse::<Address>();
    let address = address.map_err(|e| wrong("address", e.to_string(), e.hint()))?;
    let data_type = field("type").parse::<DataType>();
    let data_type = data_type.map_err(|e| wrong("type", e.to_string(), e.hint()))?;
    let order = match field("order") {
        "" => WordOrder::default(),
        order => order
            .parse::<WordOrder>()
            .map_err(|e| wrong("order", e.to_string(), e.hint()))?,
    };
    let signal = match field("signal") {
        "" => SIGNAL,
        signal => signal
            .parse::<Signal>()
            .map_err(|e: SignalError| wrong("signal", e.to_string(), e.hint()))?,
    };
    let spec = PointSpec::new(address, data_type, order);
    Ok(Entry {
        name: field("name").into(),
        spec: spec.map_err(|e| point_error(line, &e))?,
        source: Source::Signal(signal),
    })
}

fn point_error(line: u64, error: &PointError) -> MapError {
    MapError::Field {
        line,
        column: "address",
        message: error.to_string(),
        hint: error.hint(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_map() {
        let csv = "name,type,address,signal\n\
                   pressure,f32,holding:0,sine 50 10 30s\n\
                   run,bool,holding:2.0,square 0 1 10s\n\
                   fault,bool,holding:2.1,\n";
        let map = RegisterMap::from_csv(csv.as_bytes()).unwrap();
        assert_eq!(map.entries().len(), 3);
        assert_eq!(map.entries()[2].source, Source::Signal(SIGNAL));
    }

    #[test]
    fn wrong_maps_name_the_place() {
        let error = RegisterMap::from_csv("name,addr\n".as_bytes()).unwrap_err();
        assert!(matches!(error, MapError::Columns { .. }));
        let csv = "name,address,type\na,holding:0,u16\nb,100,u16\n";
        let error = RegisterMap::from_csv(csv.as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 3 of the register map, address: address 100 has two readings"
        );
        assert!(error.hint().contains("holding:100"));
        let csv = "name,address,type\na,holding:0,u32\nb,holding:1,u16\n";
        let error = RegisterMap::from_csv(csv.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "a and b overlap");
        let csv = "name,address,type\na,holding:0,u16\na,holding:1,u16\n";
        let error = RegisterMap::from_csv(csv.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "two tags are named a");
    }

    #[test]
    fn ticks_are_packed_by_their_stride() {
        let map = RegisterMap::ticks(1000, 6, Duration::from_secs(1)).unwrap();
        assert_eq!(map.entries()[999].spec.address().offset, 5994);
        assert!(RegisterMap::ticks(10, 1, Duration::from_secs(1)).is_err());
        assert!(RegisterMap::ticks(20_000, 6, Duration::from_secs(1)).is_err());
    }
}
