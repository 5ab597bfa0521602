//! The configuration: as written in files, as meant by the program.
//!
//! [`load`] finds the files, reads them into one tree ([`tree`]), merges the layers ([`layer`]) and reads
//! the tables ([`section`] and one file a table). It reports every problem at once, each with file,
//! line, column, key, value, what was expected and what to do. What comes out is checked: whoever gets
//! a [`Config`] need not check again.
//!
//! What the configuration names outside its own text (certificates, secrets, model bundles) is looked
//! at by [`check_surroundings`], since a missing one stops only what needs it.

mod bootstrap;
mod buffer;
mod bus_time;
mod complaint;
mod device;
mod files;
mod gateway;
mod keys;
pub(crate) mod last_good;
mod layer;
mod line;
mod local;
mod meaning;
mod modbus;
mod model;
mod names;
mod opcua;
mod pattern;
mod place;
mod problem;
#[cfg(test)]
mod reference;
mod report;
mod schema;
mod secret;
mod section;
mod sizing;
mod source;
mod summary;
mod surroundings;
mod tag;
mod tags_file;
mod text;
mod tree;
mod units;
mod uplink;
pub(crate) mod written;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use bootstrap::{Bootstrap, BootstrapSettingsError, Brought, KnownContact};
pub(crate) use buffer::Buffer;
pub(crate) use device::{Connection, Device, Listen};
pub(crate) use gateway::{DATA_DIR, Gateway};
pub(crate) use line::Line;
pub(crate) use local::{Local, ModelPolicy};
pub(crate) use meaning::TagMeaning;
pub(crate) use model::{Model, detector};
pub(crate) use names::NAME_BYTES_MAX;
pub(crate) use pattern::Pattern;
use place::Place;
pub(crate) use problem::{Note, Problem, Problems};
pub(crate) use schema::schema;
pub(crate) use summary::summary;
pub(crate) use surroundings::{check_surroundings, problems_around_cloud};
pub(crate) use tag::{Deadband, Scaling, Tag, TagPoint};
pub(crate) use text::{layer_from_text, toml_from_text};
pub(crate) use uplink::{Metered, Uplink};

use bus_time::BusTime;
use device::{DeviceReader, TAGS_MAX};
use files::FileReference;
use layer::{Layer, Merged};
use names::Taken;
use report::{CloudBounds, Report};
use section::Section;
use source::{Files, Role, SourceFile};
use tree::Table;
use written::Written;

/// A configuration as meant.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Who this gateway is and where it keeps its data.
    pub(crate) gateway: Gateway,
    /// How much the buffer keeps, and how safely.
    pub(crate) buffer: Buffer,
    /// Serial buses.
    pub(crate) lines: Vec<Line>,
    /// What is polled or subscribed, enabled or not.
    pub(crate) devices: Vec<Device>,
    /// What scores windows of tags.
    pub(crate) models: Vec<Model>,
    /// Where data go.
    pub(crate) uplinks: Vec<Uplink>,
    /// The first contact.
    pub(crate) bootstrap: Option<Bootstrap>,
    /// What the cloud may do.
    pub(crate) local: Local,
    /// Its keys as they are written.
    pub(crate) written: Arc<Written>,
    files: Vec<PathBuf>,
}

/// A configuration and what its reading brought besides.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// As meant.
    pub(crate) config: Config,
    /// What an operator should know although the configuration can be used.
    pub(crate) warnings: Vec<Note>,
    sources: Vec<SourceFile>,
    references: Vec<FileReference>,
}

impl Loaded {
    /// SHA-256 over all local files: whether people have changed something.
    pub(crate) fn local_digest(&self) -> String {
        let local = self.sources.iter().filter(|file| file.role != Role::Cloud);
        let texts: String = local
            .map(|file| format!("{}\n{}\n", file.path.display(), written::digest(&file.text)))
            .collect();
        written::digest(&texts)
    }
}

impl Config {
    /// The configuration of a gateway that has none: no devices, no uplinks, data where they were.
    pub(crate) fn empty(data_dir: &Path) -> Self {
        let report = Report::new(None);
        let nothing = Table::empty(Place::file(&Arc::from(data_dir)));
        let read = Reader {
            report: &report,
            data_dir,
        };
        // Defaults are part of the program; a test reads them.
        let config = read.config(&nothing, &Merged::default(), &Files::on_disk());
        config.unwrap_or_else(|| unreachable!("the defaults of the configuration are valid"))
    }

    /// The devices that are polled or subscribed.
    pub(crate) fn enabled_devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| device.enabled)
    }

    /// The certificates of this gateway, and those that it trusts.
    pub(crate) fn pki_dir(&self) -> PathBuf {
        self.gateway.data_dir.join("pki")
    }

    /// The files that it was read from, CSVs of tags included.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The directory of the buffer.
    pub(crate) fn buffer_dir(&self) -> PathBuf {
        buffer_dir(&self.gateway.data_dir)
    }
}

/// The directory of the buffer in a data directory.
pub(crate) fn buffer_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("buffer")
}

/// The file of the cloud layer.
pub(crate) fn cloud_file(data_dir: &Path) -> PathBuf {
    data_dir.join("config").join("cloud.toml")
}

/// Reads the configuration. `path` names a file or directory, else the system's is read; `data_dir` wins
/// over what is written.
///
/// # Errors
/// Every problem at once.
pub(crate) fn load(path: Option<&Path>, data_dir: Option<&Path>) -> Result<Loaded, Problems> {
    let local = source::find(path).map_err(|problem| Problems::one(*problem))?;
    read_files(Files::on_disk(), &local, data_dir)
}

/// Reads the configuration with this text as its cloud layer, whatever that is on disk.
///
/// # Errors
/// Every problem at once, those of the local files too.
pub(crate) fn load_with_layer(
    path: Option<&Path>,
    told: Option<&Path>,
    layer: &str,
) -> Result<Loaded, Problems> {
    let local = source::find(path).map_err(|problem| Problems::one(*problem))?;
    let cloud = cloud_file(&data_dir(path, told));
    let given = BTreeMap::from([(cloud, layer.as_bytes().to_vec())]);
    read_files(Files::over_disk(given), &local, told)
}

/// The data directory that the local files name, as far as they can be read.
pub(crate) fn data_dir(path: Option<&Path>, told: Option<&Path>) -> PathBuf {
    let files = Files::on_disk();
    let local = source::find(path).unwrap_or_default();
    let roots = local
        .iter()
        .filter_map(|path| read_root(&files, path, Role::Local).ok());
    data_dir_of(&roots.collect::<Vec<_>>(), told)
}

/// Whether this text can be the cloud layer of the data directory, together with the local files.
///
/// # Errors
/// Every problem at once, those of the local files too.
pub(crate) fn check_cloud_layer(
    path: Option<&Path>,
    data_dir: &Path,
    layer: &str,
) -> Result<(), Problems> {
    let local = source::find(path).map_err(|problem| Problems::one(*problem))?;
    let cloud = cloud_file(&absolute(data_dir));
    let given = BTreeMap::from([(cloud, layer.as_bytes().to_vec())]);
    read_files(Files::over_disk(given), &local, Some(data_dir)).map(|_| ())
}

/// The path from the root: a relative one would mean something else to another working directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Reads these local files and the cloud layer of the data directory that they name.
fn read_files(
    files: Files,
    local: &[PathBuf],
    data_dir: Option<&Path>,
) -> Result<Loaded, Problems> {
    let mut early = Vec::new();
    let mut roots = Vec::new();
    for path in local {
        match read_root(&files, path, Role::Local) {
            Ok(root) => roots.push(root),
            Err(problem) => early.push(*problem),
        }
    }
    let data_dir = data_dir_of(&roots, data_dir);
    let cloud_file: Arc<Path> = Arc::from(cloud_file(&data_dir));
    let report = Report::new(Some(CloudBounds {
        file: cloud_file.clone(),
        data_dir: data_dir.clone(),
    }));
    for problem in early {
        report.problem(problem);
    }
    let mut merged = Merged::default();
    if files.exists(&cloud_file) {
        match read_root(&files, &cloud_file, Role::Cloud) {
            Ok(root) => merged.add(root, Layer::Cloud, &report),
            Err(problem) => report.problem(*problem),
        }
    }
    let start = roots.first().map(|root| root.place.clone());
    for root in roots {
        merged.add(root, Layer::Local, &report);
    }
    let nothing = Table::empty(start.unwrap_or_else(|| Place::file(&cloud_file)));
    let reader = Reader {
        report: &report,
        data_dir: &data_dir,
    };
    let config = reader.config(&nothing, &merged, &files);
    let sources = files.into_read();
    let (problems, warnings, references) = report.into_parts();
    match config {
        Some(mut config) if problems.is_empty() => {
            config.files = sources.iter().map(|source| source.path.clone()).collect();
            config.written = Arc::new(written::written(&sources));
            Ok(Loaded {
                config,
                warnings,
                sources,
                references,
            })
        }
        _ => Err(Problems::new(problems, data_dir, &sources)),
    }
}

fn read_root(files: &Files, path: &Path, role: Role) -> Result<Table, Box<Problem>> {
    let text = files.read(path, role, None)?;
    tree::parse(&Arc::from(path), &text)
}

/// The last local file that names a data directory wins, the command line over all.
fn data_dir_of(roots: &[Table], told: Option<&Path>) -> PathBuf {
    let written = || {
        roots
            .iter()
            .rev()
            .find_map(|root| match &root.get("gateway")?.raw {
                tree::Raw::Table(table) => gateway::written_data_dir(table),
                _ => None,
            })
    };
    let data_dir = told.map(Path::to_owned).or_else(written);
    absolute(&data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR)))
}

/// Reads merged tables.
struct Reader<'r> {
    report: &'r Report,
    data_dir: &'r Path,
}

impl Reader<'_> {
    fn section<'a>(
        &'a self,
        table: Option<&'a Table>,
        nothing: &'a Table,
        doc: &'static keys::SectionDoc,
        path: &str,
    ) -> Section<'a> {
        Section::new(table.unwrap_or(nothing), doc, path, self.report)
    }

    fn config(&self, nothing: &Table, merged: &Merged, files: &Files) -> Option<Config> {
        let section = |table, doc, path| self.section(table, nothing, doc, path);
        let gateway = Gateway::read(
            &section(merged.gateway.as_ref(), &gateway::GATEWAY, "gateway"),
            self.data_dir.to_owned(),
        );
        let buffer = Buffer::read(&section(merged.buffer.as_ref(), &buffer::BUFFER, "buffer"));
        let lines = self.lines(&merged.lines);
        let (sources, sources_unique) = self.take_source_names(merged);
        let (devices, tags) = self.devices(&merged.devices, &merged.lines, files);
        if let (Some(lines), Some(devices)) = (&lines, &devices) {
            self.note_busy_lines(&merged.lines, lines, devices);
        }
        let models = self.models(&merged.models, &tags);
        let gateway_id = gateway.as_ref().map(|gateway| gateway.id.as_str());
        let uplinks = self.uplinks(
            &merged.uplinks,
            gateway_id.unwrap_or_default(),
            &sources,
            files,
        );
        let bootstrap = match &merged.bootstrap {
            Some(table) => {
                Bootstrap::read(&section(Some(table), &bootstrap::BOOTSTRAP, "bootstrap")).map(Some)
            }
            None => Some(None),
        };
        let local = Local::read(&section(merged.local.as_ref(), &local::LOCAL, "local"));
        sources_unique.then_some(())?;
        Some(Config {
            gateway: gateway?,
            buffer: buffer?,
            lines: lines?,
            devices: devices?,
            models: models?,
            uplinks: uplinks?,
            bootstrap: bootstrap?,
            local: local?,
            written: Arc::default(),
            files: Vec::new(),
        })
    }

    fn lines(&self, tables: &[Table]) -> Option<Vec<Line>> {
        let mut taken = Taken::default();
        let mut fits = true;
        for table in tables {
            fits &= self.take_name(&mut taken, "line", table);
        }
        let lines = read_each(tables, |table, nth| Line::read(table, nth, self.report))?;
        fits.then_some(lines)
    }

    /// Says where the asked intervals cannot hold.
    fn note_busy_lines(&self, tables: &[Table], lines: &[Line], devices: &[Device]) {
        for (table, line) in tables.iter().zip(lines) {
            if let Some(message) = BusTime::of(line, devices).warning {
                let hint =
                    "raise poll_interval, put rarely needed tags on a longer one, or raise baud";
                let key = format!("line[{}]", line.name);
                self.report
                    .note(&table.place, &key, message, Some(hint.to_owned()));
            }
        }
    }

    /// Names are unique over devices and models: both are sources of numbered samples.
    fn take_source_names(&self, merged: &Merged) -> (Taken, bool) {
        let mut taken = Taken::default();
        let mut unique = true;
        let devices = merged.devices.iter().map(|table| ("device", table));
        let models = merged.models.iter().map(|table| ("model", table));
        for (kind, table) in devices.chain(models) {
            unique &= self.take_name(&mut taken, kind, table);
        }
        (taken, unique)
    }

    fn take_name(&self, taken: &mut Taken, kind: &'static str, table: &Table) -> bool {
        let Some((node, name)) = table
            .get("name")
            .and_then(|node| Some((node, node.as_text()?)))
        else {
            return true;
        };
        match taken.take(name, kind, &node.place) {
            Ok(()) => true,
            Err(problem) => {
                self.report
                    .problem(problem.key(format!("{kind}[{name}].name")));
                false
            }
        }
    }

    fn devices(
        &self,
        tables: &[Table],
        lines: &[Table],
        files: &Files,
    ) -> (Option<Vec<Device>>, Taken) {
        // A line that has a problem of its own is still a line that devices may name.
        let lines = lines.iter().filter_map(|line| line.text("name"));
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        let mut reader = DeviceReader {
            report: self.report,
            files,
            data_dir: self.data_dir,
            lines: &lines,
            tags: Taken::default(),
        };
        let devices = read_each(tables, |table, nth| reader.read(table, nth));
        let tags = devices
            .iter()
            .flatten()
            .map(|device| device.tags.len())
            .sum::<usize>();
        if tags > TAGS_MAX {
            let message = format!("there are {tags} tags; the maximum is {TAGS_MAX}");
            let place = tables.first().map(|table| table.place.clone());
            let problem = place.map(|place| Problem::new(place, message).key("device"));
            problem
                .into_iter()
                .for_each(|problem| self.report.problem(problem));
        }
        (devices, reader.tags)
    }

    fn models(&self, tables: &[Table], tags: &Taken) -> Option<Vec<Model>> {
        read_each(tables, |table, nth| {
            Model::read(table, nth, tags, self.report)
        })
    }

    fn uplinks(
        &self,
        tables: &[Table],
        gateway: &str,
        sources: &Taken,
        files: &Files,
    ) -> Option<Vec<Uplink>> {
        let mut taken = Taken::default();
        let mut fits = true;
        for table in tables {
            fits &= self.take_name(&mut taken, "uplink", table);
        }
        if let Some(table) = tables.get(uplink::UPLINKS_MAX) {
            let message = format!(
                "there are {} uplinks; this version serves {}",
                tables.len(),
                uplink::UPLINKS_MAX
            );
            let problem = Problem::new(table.place.clone(), message).key("uplink");
            self.report
                .problem(problem.hint("remove [[uplink]] tables"));
            fits = false;
        }
        let uplinks = read_each(tables, |table, nth| {
            Uplink::read(table, nth, gateway, sources, files, self.report)
        })?;
        for (nth, uplink) in uplinks.iter().enumerate() {
            let same = uplinks[..nth].iter().find(|other| other.collides(uplink));
            if let Some(other) = same {
                let message = format!(
                    "uplinks {} and {} log in at {} as the same client {}; the broker would throw one out for \
                     the other",
                    other.name, uplink.name, uplink.endpoint, uplink.client_id
                );
                let problem = Problem::new(tables[nth].place.clone(), message)
                    .key(format!("uplink[{}].client_id", uplink.name));
                self.report
                    .problem(problem.hint("give one of them a client_id of its own"));
                fits = false;
            }
        }
        fits.then_some(uplinks)
    }
}

/// Reads every table, so that each reports its problems; `None` where one of them has any.
fn read_each<T>(
    tables: &[Table],
    mut read: impl FnMut(&Table, usize) -> Option<T>,
) -> Option<Vec<T>> {
    let read: Vec<Option<T>> = tables
        .iter()
        .enumerate()
        .map(|(index, table)| read(table, index + 1))
        .collect();
    read.into_iter().collect()
}
