//! Claims: what installers bring, in `<data_dir>/claim/*.toml`.
//!
//! One claim stands for a `[bootstrap]` of the configuration. Once its enrolment has proved itself, what it says without
//! the token is kept (`<data_dir>/secrets/claim.toml`) and the file is destroyed. What is wrong with a claim, or with
//! there being several, is said in the status and in the log; what was there before goes on meanwhile.

use std::path::{Path, PathBuf};

use millrace_uplink::Secret;
use millrace_uplink::bootstrap::{BootstrapError, Outcome};

use super::ask::AskError;
use super::store::{State, Store};
use super::{Bootstrap, key};
use crate::config::{self, BootstrapSettingsError};
use crate::device::chain;

/// Where the kernel shows network interfaces.
const INTERFACES: &str = "/sys/class/net";

/// Where claims lie in a data directory.
fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("claim")
}

/// What is to be done about the first contact.
#[derive(Debug, Default)]
pub(crate) struct FirstContact {
    /// Whom to ask; `None` where nobody said.
    pub(crate) settings: Option<config::Bootstrap>,
    /// What is wrong with what an installer brought.
    pub(crate) problem: Option<String>,
}

/// Claims that lie there: each with what changes when it is another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lying(Vec<(PathBuf, u64, Option<std::time::SystemTime>)>);

/// The claims that lie there, in order of their names.
pub(crate) fn lying(data_dir: &Path) -> Lying {
    let entries = std::fs::read_dir(directory(data_dir));
    let mut files: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            let is_claim = !hidden && path.extension().is_some_and(|end| end == "toml");
            // Not what a link or a pipe makes of it.
            let metadata = std::fs::symlink_metadata(&path).ok()?;
            let modified = metadata.modified().ok();
            (is_claim && metadata.is_file()).then_some((path, metadata.len(), modified))
        })
        .collect();
    files.sort();
    Lying(files)
}

/// Whom to ask: the configuration says it, else the one claim that lies there, else the one that was used before.
pub(crate) fn first_contact(
    configured: Option<config::Bootstrap>,
    data_dir: &Path,
) -> FirstContact {
    let Lying(files) = lying(data_dir);
    if configured.is_some() {
        let problem = files.first().map(|(path, _, _)| {
            format!(
                "claim {} is not used: the configuration has a [bootstrap]; remove one of them",
                path.display()
            )
        });
        return FirstContact {
            settings: configured,
            problem,
        };
    }
    let mut problem = None;
    match files.as_slice() {
        [] => {}
        [(path, _, _)] => match config::Bootstrap::from_claim(path) {
            Ok(settings) => {
                return FirstContact {
                    settings: Some(settings),
                    problem: None,
                };
            }
            Err(error) => {
                problem = Some(format!("claim {} cannot be used: {error}", path.display()));
            }
        },
        several => {
            let names: Vec<String> = several
                .iter()
                .map(|(path, _, _)| path.display().to_string())
                .collect();
            problem = Some(format!(
                "there are {} claims, and only one can be meant: {}; remove the others",
                several.len(),
                names.join(", ")
            ));
        }
    }
    let store = Store::new(data_dir);
    let kept = store.kept_claim();
    let settings = match kept.exists() {
        true => config::Bootstrap::from_kept_claim(&kept, &store.kept_key())
            .map_err(|error| {
                let said = format!("{} cannot be used: {error}", kept.display());
                problem.get_or_insert(said);
            })
            .ok(),
        false => None,
    };
    FirstContact { settings, problem }
}

impl Bootstrap {
    /// What failed; of a key that an installer brought, where it stands and what it is called there.
    pub(super) fn told(&self, error: &AskError) -> String {
        use BootstrapError::Settings;
        match (&self.settings.brought, error) {
            (
                Some(claim),
                AskError::Provider(Settings { key, problem })
                | AskError::Settings(BootstrapSettingsError::Provider(Settings { key, problem })),
            ) => {
                let key = match *key {
                    "external_key_file" => "token",
                    same => same,
                };
                format!("claim {}: {key} {problem}", claim.path.display())
            }
            _ => chain(error),
        }
    }

    /// What failed, with what the way to the core looks like where nobody answered.
    pub(super) fn with_way(&self, outcome: Outcome, said: String) -> String {
        let interface = self.settings.interface.as_deref();
        let unanswered = interface.filter(|_| outcome == Outcome::Transient);
        match unanswered.and_then(|name| way_hint(Path::new(INTERFACES), name)) {
            Some(way) => format!("{said}; {way}"),
            None => said,
        }
    }

    /// Whether a claim was brought that is not the one the enrolment in force came by.
    pub(super) fn is_claimed_anew(&self, state: &State) -> bool {
        let token = self.brought_token();
        token.is_some_and(|token| {
            let token = key::fingerprint(&token);
            ![&state.asked_with, &state.spent].contains(&&Some(token))
        })
    }

    /// The token of a claim that still lies there.
    fn brought_token(&self) -> Option<Secret> {
        self.settings.brought.as_ref()?;
        self.settings.external_key.as_ref()?.load().ok()
    }

    /// Says where a claim brings a token that was used already.
    pub(super) fn look_at_token(&self, state: &State) {
        let token = self.brought_token().map(|token| key::fingerprint(&token));
        if let (Some(brought), true) = (&self.settings.brought, token.is_some())
            && token == state.spent
        {
            let problem = format!(
                "claim {} brings a one-time token that was used already: remove it, or bring one with a new token",
                brought.path.display()
            );
            self.desk.say_claim(Some(problem));
        }
    }
}

/// What can be said of the way to the core, where a claim names the interface: nothing where all is well.
fn way_hint(sys: &Path, interface: &str) -> Option<String> {
    let of = |name: &str| {
        let text = std::fs::read_to_string(sys.join(interface).join(name));
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    if !sys.join(interface).exists() {
        let entries = std::fs::read_dir(sys).into_iter().flatten().flatten();
        let mut there: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name != "lo")
            .collect();
        there.sort();
        return Some(format!(
            "{interface}, which the claim names, is not there; there are: {}",
            there.join(", ")
        ));
    }
    if of("operstate") == "down" && of("carrier").is_empty() {
        return Some(format!("{interface} is switched off"));
    }
    (of("carrier") == "0").then(|| format!("{interface} has no cable, or nothing at its other end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "url = \"https://core.example\"\ntoken = \"planted-0123456789abcdef\"\n";

    fn put(data_dir: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(directory(data_dir)).unwrap();
        std::fs::write(directory(data_dir).join(name), text).unwrap();
    }

    #[test]
    fn one_claim_is_meant_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let look = || first_contact(None, dir.path());
        assert!(look().settings.is_none() && look().problem.is_none());
        put(dir.path(), "usb.toml", GOOD);
        // What is being written, and what is none.
        put(dir.path(), ".usb.new", GOOD);
        put(dir.path(), ".half.toml", GOOD);
        put(dir.path(), "notes.txt", GOOD);
        let (before, found) = (lying(dir.path()), look());
        assert!(found.problem.is_none());
        let settings = found.settings.unwrap();
        assert_eq!(
            settings.brought.as_ref().unwrap().path,
            dir.path().join("claim/usb.toml")
        );
        let beside = first_contact(Some(settings.clone()), dir.path());
        assert_eq!(beside.settings, Some(settings));
        assert!(beside.problem.unwrap().contains("[bootstrap]"));
        put(dir.path(), "etc.toml", GOOD);
        assert_ne!(lying(dir.path()), before);
        let said = look().problem.unwrap();
        assert!(
            said.contains("2 claims") && said.contains("claim/etc.toml"),
            "{said}"
        );
        assert!(look().settings.is_none());
    }

    #[test]
    fn what_was_used_before_goes_on_beside_a_bad_claim() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "usb.toml", GOOD);
        let rest = first_contact(None, dir.path())
            .settings
            .unwrap()
            .brought
            .unwrap()
            .rest;
        let store = Store::new(dir.path());
        store.keep_claim(&rest).unwrap();
        put(dir.path(), "usb.toml", "url = \"https://core.exam");
        let found = first_contact(None, dir.path());
        assert!(found.problem.unwrap().contains("cut off"));
        assert!(found.settings.unwrap().brought.is_none());
        std::fs::write(store.kept_claim(), "# millrace-claim 9\n").unwrap();
        std::fs::remove_file(dir.path().join("claim/usb.toml")).unwrap();
        let found = first_contact(None, dir.path());
        assert!(found.settings.is_none());
        assert!(
            found
                .problem
                .unwrap()
                .contains("not what this version wrote")
        );
    }

    #[test]
    fn the_way_to_the_core_is_looked_at() {
        let sys = tempfile::tempdir().unwrap();
        let interface = |name: &str, operstate: &str, carrier: Option<&str>| {
            let dir = sys.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("operstate"), operstate).unwrap();
            if let Some(carrier) = carrier {
                std::fs::write(dir.join("carrier"), carrier).unwrap();
            }
        };
        interface("lo", "unknown\n", Some("1\n"));
        interface("eth0", "up\n", Some("1\n"));
        interface("eth1", "down\n", Some("0\n"));
        interface("eth2", "down\n", None);
        assert_eq!(way_hint(sys.path(), "eth0"), None);
        assert!(way_hint(sys.path(), "eth1").unwrap().contains("no cable"));
        assert!(
            way_hint(sys.path(), "eth2")
                .unwrap()
                .contains("switched off")
        );
        let absent = way_hint(sys.path(), "wlan0").unwrap();
        assert!(absent.contains("there are: eth0, eth1, eth2"), "{absent}");
    }
}
