//! How a command fails: one sentence, its causes, a hint.

use std::fmt::Write as _;
use std::process::ExitCode;

/// A failure that says what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    exit: u8,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// A command that was understood and failed.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            exit: 1,
            source: None,
        }
    }

    /// A command that makes no sense as typed.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: super::EXIT_CONFIG,
            ..Self::new(message)
        }
    }

    /// The exit code that goes with it.
    pub(super) fn exit_code(&self) -> u8 {
        self.exit
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Why it failed.
    pub(crate) fn because(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// Prints the error with its causes and its hint; the exit code that goes with it.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    // The reader of our output went away (`millrace tags | head`): it has what it wanted.
    if error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    eprint!("{}", text(error));
    let exit = error
        .downcast_ref::<Failure>()
        .map_or(1, Failure::exit_code);
    ExitCode::from(exit)
}

/// The error as a person reads it.
pub(super) fn text(error: &anyhow::Error) -> String {
    let mut text = String::from("error: ");
    for (depth, cause) in error.chain().enumerate() {
        if depth > 0 {
            text.push_str(": ");
        }
        let _ = write!(text, "{cause}");
    }
    text.push('\n');
    let hint = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Failure>()?.hint.as_ref());
    if let Some(hint) = hint {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}
