//! Where secrets are. The configuration never holds one itself.

use std::path::{Path, PathBuf};

use millrace_uplink::{Secret, SecretSource};

/// Where systemd puts the service's credentials. A shell has no `CREDENTIALS_DIRECTORY`; `millrace check`
/// still has to find them.
const CREDENTIALS_DIR: &str = "/run/credentials/millrace.service";

/// What the text of a secret's key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written<'t> {
    /// A file that holds the secret and nothing else.
    File(&'t str),
    /// An environment variable.
    Env(&'t str),
    /// A systemd credential (`LoadCredential=` in the unit).
    Credential(&'t str),
}

/// Tells the three places of a secret apart.
pub(super) fn parse(text: &str) -> Written<'_> {
    if let Some(name) = text.strip_prefix("env:") {
        Written::Env(name)
    } else if let Some(name) = text.strip_prefix("credential:") {
        Written::Credential(name)
    } else {
        Written::File(text)
    }
}

/// The secret in an environment variable. Where nobody set it, the source is a file that does not
/// exist, named like the variable: the one who needs the secret says so, and all else runs.
pub(super) fn from_env(name: &str) -> SecretSource {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => SecretSource::Given(Secret::new(value)),
        _ => SecretSource::File(PathBuf::from(format!("env:{name}"))),
    }
}

/// The file of a systemd credential.
pub(super) fn credential_path(name: &str) -> PathBuf {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY");
    Path::new(directory.as_deref().unwrap_or(CREDENTIALS_DIR.as_ref())).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_places_are_told_apart() {
        assert_eq!(parse("env:PW"), Written::Env("PW"));
        assert_eq!(parse("credential:mqtt"), Written::Credential("mqtt"));
        assert_eq!(parse("/etc/pw"), Written::File("/etc/pw"));
    }

    #[test]
    fn unset_variable_fails_where_it_is_needed() {
        let error = from_env("MILLRACE_TEST_UNSET").load().unwrap_err();
        assert!(
            error.to_string().contains("env:MILLRACE_TEST_UNSET"),
            "{error}"
        );
    }
}
