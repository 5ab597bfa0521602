//! Model bundles for the end-to-end tests, and whoever signs them: with the openssl program, not with ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::find_program;

/// A bundle in a directory of its own.
#[derive(Debug)]
pub struct Bundle {
    directory: PathBuf,
}

const MANIFEST: &str = "model.toml";

impl Bundle {
    /// Writes a bundle of two inputs, `a` and `b`, and windows of three rows.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(directory: &Path, version: &str, model: &[u8]) -> Result<Bundle> {
        std::fs::create_dir_all(directory)?;
        std::fs::write(directory.join("model.onnx"), model)?;
        let digest = sha256(&directory.join("model.onnx"))?;
        let text = format!(
            "name = \"test\"\nversion = \"{version}\"\n\n[model]\nfile = \"model.onnx\"\nsha256 = \"{digest}\"\n\n\
             [[input]]\nrole = \"a\"\n\n[[input]]\nrole = \"b\"\n\n\
             [window]\nlen = 3\ngrid = \"200ms\"\nmax_gap = \"2s\"\n\n[output]\nscore = \"score\"\n\n\
             [threshold]\nmethod = \"fixed\"\nvalue = 1e12\n"
        );
        std::fs::write(directory.join(MANIFEST), text)?;
        Ok(Bundle {
            directory: directory.to_owned(),
        })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Replaces a part of the manifest, which must be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn edit(&self, from: &str, to: &str) -> Result<()> {
        let path = self.directory.join(MANIFEST);
        let text = std::fs::read_to_string(&path)?;
        ensure!(text.contains(from), "the manifest has no {from:?}");
        Ok(std::fs::write(path, text.replacen(from, to, 1))?)
    }

    /// Packs what is in the directory, be it right or wrong, beside it; gives the file.
    ///
    /// # Errors
    /// When `tar` fails.
    pub fn pack(&self) -> Result<PathBuf> {
        let tar = self.directory.with_extension("tar");
        let status = Command::new(find_program("tar")?)
            .arg("-C")
            .arg(&self.directory)
            .arg("-cf")
            .arg(&tar)
            .arg(".")
            .status()?;
        ensure!(status.success(), "tar: {status}");
        Ok(tar)
    }
}

/// Whoever makes bundles: a key of Ed25519.
#[derive(Debug)]
pub struct Maker {
    key: PathBuf,
}

impl Maker {
    /// Makes a key in `directory`.
    ///
    /// # Errors
    /// When openssl is missing or refuses.
    pub fn new(directory: &Path, name: &str) -> Result<Maker> {
        let key = directory.join(format!("{name}.pem"));
        let path = text(&key);
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", &path])?;
        Ok(Maker { key })
    }

    /// The public key in base64, as a person copies it out of the PEM.
    ///
    /// # Errors
    /// When openssl refuses.
    pub fn public(&self) -> Result<String> {
        let pem = openssl(&["pkey", "-in", &text(&self.key), "-pubout"])?;
        let pem = String::from_utf8(pem)?;
        let line = pem.lines().nth(1).context("a PEM of three lines")?;
        Ok(line.to_owned())
    }

    /// Signs a bundle as the documentation says it.
    ///
    /// # Errors
    /// When openssl refuses.
    pub fn sign(&self, bundle: &Bundle) -> Result<()> {
        let mut message = b"millrace-model-v1\0".to_vec();
        message.extend(std::fs::read(bundle.path().join(MANIFEST))?);
        let file = bundle.path().with_extension("message");
        std::fs::write(&file, message)?;
        let (key, message) = (text(&self.key), text(&file));
        let signature = openssl(&[
            "pkeyutl", "-sign", "-inkey", &key, "-rawin", "-in", &message,
        ])?;
        Ok(std::fs::write(bundle.path().join("model.sig"), signature)?)
    }
}

fn openssl(args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(find_program("openssl")?).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "openssl {}: {said}",
        args.join(" ")
    );
    Ok(output.stdout)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The SHA-256 of a file, as the program of that name prints it.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let output = Command::new(find_program("sha256sum")?)
        .arg(path)
        .output()?;
    ensure!(output.status.success(), "sha256sum {}", path.display());
    let said = String::from_utf8(output.stdout)?;
    let digest = said.split_whitespace().next().context("a digest")?;
    Ok(digest.to_owned())
}
