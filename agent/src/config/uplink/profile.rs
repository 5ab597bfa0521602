//! The kind of core: a profile, joined to the gateway and the variables.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use millrace_uplink::profile::{self, DeliveryClass, Profile};

use crate::config::complaint::Complaint;
use crate::config::keys::{KeyDoc, Kind};
use crate::config::names::Taken;
use crate::config::pattern::Pattern;
use crate::config::problem::Problem;
use crate::config::section::Section;
use crate::config::source::{Files, Role};
use crate::config::tree::Raw;

pub(super) const PROFILE: KeyDoc = KeyDoc::new(
            "profile",
            Kind::Form("the name of a profile"),
            "The kind of core: topics, payload and limits. Built in: `generic`, `mainflux`, `magistrala`, \
             `mainfluxlabs`, `thingsboard`, `influx-line`, `leverege`, `flowbox`, `aws-iot`, `azure-iot-hub`, `nats`, \
             `umh`, `proxus`, `cumulocity`, `sparkplug-b`. The file `profiles/NAME.toml` \
             beside the configuration adds one, or takes the place of a built-in one; see \
             [profiles](profiles.md).",
        )
        .means("`generic`");
pub(super) const VARS: KeyDoc = KeyDoc::new(
    "vars",
    Kind::Form("a table such as { channel = \"…\" }"),
    "What the profile needs to know beside that, `vars = { channel = \"…\" }`; `check` names what is \
             missing.",
);

/// The profile of an uplink that names none.
const DEFAULT_PROFILE: &str = "generic";

/// The profile of that name, joined to the gateway and the variables.
pub(super) fn read_profile(
    section: &Section<'_>,
    gateway: &str,
    sources: &Taken,
    files: &Files,
    route: Option<&[Pattern]>,
) -> Option<Profile> {
    let name = match section.has("profile") {
        true => section.text("profile")?,
        false => DEFAULT_PROFILE,
    };
    let place = section.place();
    // A profile is a person's, never the cloud's.
    let local = section.report().cloud_bounds_at(place).is_none();
    let directory = local.then(|| profiles_beside(&place.file));
    // Through the files of the configuration, of which the last good one keeps a copy.
    let look = |path: &Path| {
        let read = || files.read(path, Role::Profile, None);
        let refused = |problem: Box<Problem>| std::io::Error::other(problem.message);
        files.exists(path).then(|| read().map_err(refused))
    };
    let definition = match profile::find_with(name, directory.as_deref(), look) {
        Ok(definition) => Arc::new(definition),
        Err(error) => {
            for problem in error.0 {
                let (said, fix) = (problem.sentence(), problem.fix);
                section.complain("profile", Complaint::whole(said).hint(fix));
            }
            return None;
        }
    };
    let unproven = !definition.echo || section.choice("verify") == Some("puback");
    let unproven = unproven && section.choice("settle") != Some("core");
    if definition.delivery == DeliveryClass::AckedUnverified && unproven {
        section.note(
            "profile",
            format!("an acknowledgement of {name} does not prove that the core took the data"),
            Some("look whether they arrive when the uplink is new".to_owned()),
        );
    }
    let vars = read_vars(section)?;
    let mut names: Vec<&str> = sources
        .names()
        .filter(|name| route.is_some_and(|route| route.iter().any(|to| to.matches(name))))
        .collect();
    names.sort_unstable();
    match Profile::new(definition, gateway, &vars, &names) {
        Ok(profile) => Some(profile),
        Err(error) => {
            let complaint = Complaint::said(&error).hint("write vars = { name = \"…\" }");
            section.complain("vars", complaint);
            None
        }
    }
}

/// The directory of a person's own profiles: beside the main file, whichever file names the uplink.
fn profiles_beside(file: &Path) -> std::path::PathBuf {
    let mut directory = file.parent().unwrap_or(Path::new("."));
    if directory.ends_with("conf.d") {
        directory = directory.parent().unwrap_or(Path::new("."));
    }
    directory.join("profiles")
}

fn read_vars(section: &Section<'_>) -> Option<BTreeMap<String, String>> {
    let mut vars = BTreeMap::new();
    let Some(node) = section.node("vars") else {
        return Some(vars);
    };
    let Raw::Table(table) = &node.raw else {
        section.complain("vars", Complaint::new("a table of texts is expected"));
        return None;
    };
    for entry in &table.entries {
        let Some(text) = entry.node.as_text() else {
            let key = format!("vars.{}", entry.key);
            let complaint = Complaint::new("a text is expected");
            section.complain_at(&key, &entry.node.place, &entry.node.shown(), complaint);
            return None;
        };
        vars.insert(entry.key.clone(), text.to_owned());
    }
    Some(vars)
}
