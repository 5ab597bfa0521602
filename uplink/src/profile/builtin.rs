//! The profiles that come with the program, and those that a person adds in a directory.

use std::io::Read;
use std::path::Path;

use super::definition::{Definition, parse};
use super::reader::{ProfileError, ProfileProblem};

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each.
        pub(crate) const BUILTIN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("builtin/", $name, ".toml")))),*];
    };
}

builtin!(
    "generic",
    "mainflux",
    "magistrala",
    "mainfluxlabs",
    "thingsboard",
    "influx-line",
    "leverege",
    "flowbox",
    "aws-iot",
    "azure-iot-hub",
    "nats",
    "umh",
    "proxus",
    "cumulocity",
    "sparkplug-b",
);

/// The names of the profiles that come with the program.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// A profile's file is some kilobytes; a larger one is the wrong file.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The profile of this name: the file `<directory>/<name>.toml` where there is one, else the one that comes with
/// the program.
///
/// # Errors
/// When there is none, or it cannot be used.
pub fn find(name: &str, directory: Option<&Path>) -> Result<Definition, ProfileError> {
    find_with(name, directory, |path| path.exists().then(|| read(path)))
}

/// The same, with files as `look` finds them: `None` where there is none.
///
/// # Errors
/// As [`find`].
pub fn find_with(
    name: &str,
    directory: Option<&Path>,
    look: impl FnOnce(&Path) -> Option<std::io::Result<String>>,
) -> Result<Definition, ProfileError> {
    let builtin = BUILTIN.iter().find(|(known, _)| *known == name);
    let unknown = || {
        let known: Vec<&str> = builtin_names().collect();
        problem(
            name.to_owned(),
            "no profile".to_owned(),
            format!("one of {}", known.join(", ")),
            match directory {
                Some(directory) => format!(
                    "or write {}",
                    directory.join(format!("{name}.toml")).display()
                ),
                None => "correct the name".to_owned(),
            },
        )
    };
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.chars().all(is_name) {
        return Err(unknown());
    }
    if let Some(directory) = directory {
        let path = directory.join(format!("{name}.toml"));
        if let Some(text) = look(&path) {
            return own(name, &path, text);
        }
    }
    let (_, text) = builtin.ok_or_else(unknown)?;
    parse(&format!("built-in/{name}.toml"), text)
}

fn read(path: &Path) -> std::io::Result<String> {
    // One that is much larger is not read.
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn own(name: &str, path: &Path, text: std::io::Result<String>) -> Result<Definition, ProfileError> {
    let file = path.display().to_string();
    let text = text.map_err(|error| {
        problem(
            file.clone(),
            format!("unreadable ({error})"),
            "a file of TOML that this user may read".to_owned(),
            "check its owner and mode".to_owned(),
        )
    })?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(problem(
            file,
            "too large".to_owned(),
            format!("at most {FILE_BYTES_MAX} bytes"),
            "this is not the file of a profile".to_owned(),
        ));
    }
    let definition = parse(&file, &text)?;
    if definition.name != name {
        return Err(ProfileError(vec![ProfileProblem {
            file,
            key: "name".to_owned(),
            value: format!("{:?}", definition.name),
            expected: format!("\"{name}\", the name of the file"),
            fix: "rename the one or the other".to_owned(),
        }]));
    }
    Ok(definition)
}

fn problem(file: String, value: String, expected: String, fix: String) -> ProfileError {
    ProfileError(vec![ProfileProblem {
        file,
        key: String::new(),
        value,
        expected,
        fix,
    }])
}
