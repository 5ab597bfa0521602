//! The configuration as its files write it: for comparing two, and for telling one without its secrets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::source::{Role, SourceFile};

/// Every key with its value as JSON, `device[boiler].poll_interval` -> `"1s"`; the later of two layers holds.
pub(crate) type Written = BTreeMap<String, String>;

/// What stands in the place of a secret.
const REDACTED: &str = "REDACTED";

/// One key that two configurations differ in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Difference {
    /// Which.
    pub(crate) key: String,
    /// What it was; `None`: it was not there.
    pub(crate) before: Option<String>,
    /// What it becomes; `None`: it goes.
    pub(crate) after: Option<String>,
}

/// The keys of these files. Files of tags and profiles count as a whole.
pub(super) fn written(sources: &[SourceFile]) -> Written {
    let mut written = Written::new();
    // Local files are read first, and win all the same.
    let (cloud, local): (Vec<_>, Vec<_>) = sources
        .iter()
        .partition(|source| source.role == Role::Cloud);
    for source in cloud.into_iter().chain(local) {
        match source.role {
            Role::Cloud | Role::Local => {
                let tables = toml_edit::de::from_str::<Map<String, Value>>(&source.text);
                for (key, value) in tables.unwrap_or_default() {
                    add_root(&mut written, &key, value);
                }
            }
            Role::Tags | Role::Profile => {
                let key = format!("file {}", source.path.display());
                written.insert(key, format!("sha256 {}", &digest(&source.text)[..16]));
            }
        }
    }
    written
}

fn add_root(written: &mut Written, key: &str, value: Value) {
    let Value::Array(tables) = value else {
        return flatten(written, key, value);
    };
    for table in tables {
        let name = table["name"].as_str().unwrap_or_default().to_owned();
        let path = format!("{key}[{name}]");
        // Of two tables of one name the later one holds, as a whole.
        let inside = format!("{path}.");
        written.retain(|known, _| !known.starts_with(&inside));
        flatten(written, &path, table);
    }
}

fn flatten(written: &mut Written, path: &str, value: Value) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                flatten(written, &format!("{path}.{key}"), value);
            }
        }
        Value::Array(list) if list.iter().all(Value::is_object) && !list.is_empty() => {
            for (at, value) in list.into_iter().enumerate() {
                let name = value["name"].as_str().map(str::to_owned);
                let name = name.unwrap_or_else(|| at.to_string());
                flatten(written, &format!("{path}[{name}]"), value);
            }
        }
        value => {
            written.insert(path.to_owned(), value.to_string());
        }
    }
}

/// Where the two differ, by key.
pub(crate) fn differences(before: &Written, after: &Written) -> Vec<Difference> {
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differs = keys
        .into_iter()
        .filter(|key| before.get(*key) != after.get(*key));
    differs
        .map(|key| Difference {
            key: key.clone(),
            before: before.get(key).cloned(),
            after: after.get(key).cloned(),
        })
        .collect()
}

/// The tables of a TOML text without comments and without what looks like a secret. Secrets have no place in a
/// configuration; somebody may have put one there all the same.
pub(crate) fn without_secrets(text: &str) -> Value {
    let tables = toml_edit::de::from_str::<Map<String, Value>>(text);
    let mut tables = Value::Object(tables.unwrap_or_default());
    redact(&mut tables);
    tables
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                match is_secret(key) && !value.is_object() {
                    true => *value = REDACTED.into(),
                    false => redact(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(redact),
        Value::String(text) => {
            // A login inside of a URL.
            if let Some((scheme, rest)) = text.split_once("://")
                && let Some((_, host)) = rest.split_once('@')
            {
                *text = format!("{scheme}://{REDACTED}@{host}");
            }
        }
        _ => {}
    }
}

/// Keys that end in `_file` name where a secret is, and are none.
fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let words = ["password", "secret", "token", "passphrase", "credential"];
    !key.ends_with("_file")
        && (words.iter().any(|word| key.contains(word)) || key == "key" || key.ends_with("_key"))
}

/// SHA-256 of a text, hexadecimal.
pub(crate) fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(role: Role, path: &str, text: &str) -> SourceFile {
        SourceFile {
            path: path.into(),
            role,
            text: text.to_owned(),
        }
    }

    #[test]
    fn differences_name_keys_and_the_later_layer_holds() {
        let cloud = "[gateway]\nid = \"a\"\n[[device]]\nname = \"x\"\npoll_interval = \"1s\"\nunit_id = 1\n";
        let local = "[[device]]\nname = \"x\"\npoll_interval = \"2s\"\n[[device.tag]]\nname = \"t\"\nscale = 2\n";
        let before = written(&[source(Role::Cloud, "c", cloud)]);
        let after = written(&[
            source(Role::Local, "l", local),
            source(Role::Cloud, "c", cloud),
            source(Role::Tags, "tags.csv", "name"),
        ]);
        let shown: Vec<String> = differences(&before, &after)
            .iter()
            .map(|it| {
                format!(
                    "{} {:?} {:?}",
                    it.key,
                    it.before.as_deref(),
                    it.after.as_deref()
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "device[x].poll_interval Some(\"\\\"1s\\\"\") Some(\"\\\"2s\\\"\")",
                "device[x].tag[t].name None Some(\"\\\"t\\\"\")",
                "device[x].tag[t].scale None Some(\"2\")",
                "device[x].unit_id Some(\"1\") None",
                "file tags.csv None Some(\"sha256 82a3537ff0dbce7e\")",
            ]
        );
        assert_eq!(differences(&after, &after), []);
    }

    #[test]
    fn secrets_do_not_show() {
        let text = "# hunter1\n[[uplink]]\nname = \"c\"\npassword = \"hunter2\"\npassword_file = \"pw\"\n\
                    url = \"mqtt://me:hunter3@core\"\nvars = { access_token = \"hunter4\", channel = \"c1\" }\n";
        let shown = without_secrets(text).to_string();
        assert!(!shown.contains("hunter"), "{shown}");
        for there in [
            "\"password_file\":\"pw\"",
            "mqtt://REDACTED@core",
            "\"channel\":\"c1\"",
        ] {
            assert!(shown.contains(there), "{there}: {shown}");
        }
    }
}
