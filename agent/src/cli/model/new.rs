//! `millrace model new`: the first draft of a manifest.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use millrace_inference::{Draft, MANIFEST_FILE, draft, sha256};
use serde::Serialize;
use toml_edit::{DocumentMut, Item, value};

use crate::cli::{Failure, Global, output, show};

/// Draft the manifest of a model file
///
/// Writes model.toml beside the file, with what the file says of itself (operator set, names, shapes, `metadata_props`), digests, and a
/// comment wherever a person must fill something in. Operators that do not run here are named, each with the way out. golden.json beside it is taken as golden vectors. A manifest that is there
/// already is not touched; `--update` only writes the digests of its files anew.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The model file
    model: PathBuf,
    /// Write the digests in the manifest anew, after the model was exported once more
    #[arg(long)]
    update: bool,
}

/// Golden vectors are looked for under this name.
const GOLDEN_FILE: &str = "golden.json";

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    manifest: PathBuf,
    /// What is to be filled in.
    open: Vec<String>,
    /// Operators that do not run here, each with the way out.
    refused: Vec<String>,
}

impl NewArgs {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let directory = match self.model.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let manifest = directory.join(MANIFEST_FILE);
        let (open, refused) = match (manifest.exists(), self.update) {
            (true, false) => {
                return Err(Failure::new(format!("{} exists", manifest.display()))
                    .hint("--update writes the digests in it anew; remove it to have another one drafted")
                    .into());
            }
            (_, true) => {
                update(&directory, &manifest)?;
                (Vec::new(), Vec::new())
            }
            (false, false) => {
                let drafted = self.draft(&directory, &manifest)?;
                let refused = drafted.refused.iter().map(ToString::to_string);
                (drafted.open, refused.collect())
            }
        };
        let written = Written {
            manifest,
            open,
            refused,
        };
        if global.json {
            output::json(&written)?;
        } else {
            output::text(&render(&written))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn draft(&self, directory: &Path, manifest: &Path) -> anyhow::Result<Draft> {
        let onnx = read(&self.model)?;
        let golden = directory.join(GOLDEN_FILE);
        let golden = golden.exists().then(|| read(&golden)).transpose()?;
        let golden = golden.as_deref().map(|bytes| (GOLDEN_FILE, bytes));
        let file = self.model.file_name().unwrap_or_default();
        let place = std::path::absolute(directory)?;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let drafted = draft(&file.to_string_lossy(), &onnx, golden, &name).map_err(|error| {
            Failure::new(format!("{} is no model", self.model.display())).because(error)
        })?;
        write(manifest, &drafted.manifest)?;
        Ok(drafted)
    }
}

/// The digests of the files that the manifest names.
fn update(directory: &Path, manifest: &Path) -> anyhow::Result<()> {
    let text = String::from_utf8(read(manifest)?)?;
    let mut document: DocumentMut = text.parse().map_err(|error| {
        Failure::new(format!("{} is not TOML", manifest.display())).because(error)
    })?;
    for key in ["model", "golden"] {
        let Some(table) = document.get_mut(key) else {
            continue;
        };
        let Some(file) = table.get("file").and_then(Item::as_str) else {
            continue;
        };
        let digest = sha256(&read(&directory.join(file))?);
        match table.get_mut("sha256").and_then(Item::as_value_mut) {
            Some(old) => {
                let decor = old.decor().clone();
                *old = digest.into();
                *old.decor_mut() = decor;
            }
            None => table["sha256"] = value(digest),
        }
    }
    write(manifest, &document.to_string())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        Failure::new(format!("{} cannot be read", path.display()))
            .because(error)
            .into()
    })
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).map_err(|error| {
        Failure::new(format!("{} cannot be written", path.display()))
            .because(error)
            .into()
    })
}

fn render(written: &Written) -> String {
    let mut text = format!("{} is written.\n", written.manifest.display());
    if !written.refused.is_empty() {
        text.push_str("The model does not run here. Export it again without these operators:\n");
    }
    for operator in &written.refused {
        text.push_str(&show::bullet("- ", operator));
    }
    if !written.open.is_empty() {
        text.push_str("To be filled in, else the bundle does not load:\n");
    }
    for sentence in &written.open {
        text.push_str(&show::bullet("- ", sentence));
    }
    text
}
