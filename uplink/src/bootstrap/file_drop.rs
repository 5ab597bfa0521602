//! An enrolment that somebody brings: a file on a stick, from cloud-init, or from another program.

use std::io::Read;
use std::path::PathBuf;

use async_trait::async_trait;

use super::document::Document;
use super::{Attempt, BootstrapError, Enrolment, Provider, REPLY_BYTES_MAX};

/// A place where a file will lie.
#[derive(Debug)]
pub struct FileDrop {
    path: PathBuf,
}

impl FileDrop {
    /// The enrolment will be in this file.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

#[async_trait]
impl Provider for FileDrop {
    async fn ask(&self, attempt: &Attempt) -> Result<Enrolment, BootstrapError> {
        let shown = self.path.display().to_string();
        let network = |error: std::io::Error| BootstrapError::Network {
            url: shown.clone(),
            source: Box::new(error),
        };
        let mut bytes = Vec::new();
        // A small local file: it does not hold anybody up.
        match std::fs::File::open(&self.path) {
            Ok(file) => {
                let mut file = file.take(REPLY_BYTES_MAX as u64 + 1);
                file.read_to_end(&mut bytes).map_err(network)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(BootstrapError::Pending {
                    url: shown,
                    why: "the file is not there".into(),
                    retry_after: None,
                });
            }
            Err(error) => return Err(network(error)),
        }
        if bytes.len() > REPLY_BYTES_MAX {
            return Err(BootstrapError::Malformed {
                url: shown,
                place: "the file".into(),
                problem: format!("has more than {REPLY_BYTES_MAX} bytes"),
                hint: "it should hold an enrolment and nothing else",
            });
        }
        let mut enrolment = Document::parse(&shown, &bytes)?.enrolment(&shown, Some(attempt))?;
        // Whatever it says: it is removed after it has proved itself.
        enrolment.receipt.get_or_insert_default();
        Ok(enrolment)
    }

    /// It holds secrets and was for this one time.
    async fn confirm(&self, _: &str) -> Result<(), BootstrapError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "remove this file: it holds the secrets of the enrolment");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
