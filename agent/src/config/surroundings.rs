//! What a configuration names outside its own text: secrets, certificates, model bundles.

use std::collections::BTreeSet;

use millrace_inference::Bundle;

use super::files::{self, FileReference, FileUse};
use super::keys::{all_of, nearest};
use super::model::Model;
use super::problem::{Note, Problem};
use super::{Loaded, Problems};
use crate::device::chain;

/// Looks at every file that the configuration names. `millrace check` asks for it; a start does not,
/// because what is missing stops only what needs it.
///
/// # Errors
/// Every problem at once.
pub(crate) fn check_surroundings(loaded: &Loaded) -> (Result<(), Problems>, Vec<Note>) {
    let (mut problems, notes) = files::check(&loaded.references);
    for reference in &loaded.references {
        let FileUse::Bundle { model } = &reference.used_as else {
            continue;
        };
        if let Some(model) = loaded
            .config
            .models
            .iter()
            .find(|known| known.name == *model)
        {
            problems.extend(check_bundle(reference, model));
        }
    }
    let result = match problems.is_empty() {
        true => Ok(()),
        false => Err(Problems::new(
            problems,
            loaded.config.gateway.data_dir.clone(),
            &loaded.sources,
        )),
    };
    (result, notes)
}

/// The problems with what the cloud layer names; `None`: all is well. What local files name is none of its
/// business.
pub(crate) fn problems_around_cloud(loaded: &Loaded) -> Option<Problems> {
    let cloud = super::cloud_file(&loaded.config.gateway.data_dir);
    let (result, _) = check_surroundings(loaded);
    let problems = result.err()?;
    let of_cloud = |problem: &&Problem| *problem.place.file == *cloud;
    let list: Vec<Problem> = problems.iter().filter(of_cloud).cloned().collect();
    (!list.is_empty()).then(|| Problems::from(list))
}

/// Whether the bundle can be loaded and its roles are those that the configuration gives tags.
fn check_bundle(reference: &FileReference, model: &Model) -> Vec<Problem> {
    let problem = |message: String| {
        Problem::new(reference.place.clone(), message).key(reference.key.as_str())
    };
    let bundle = match Bundle::load(&reference.path) {
        Ok(bundle) => bundle,
        Err(error) => {
            let value = reference.path.display().to_string();
            let message = format!("bundle is {value}; {}", chain(&error));
            let broken = problem(message)
                .value(value)
                .expected("a bundle that can be loaded");
            return vec![
                broken.hint("a bundle is a directory or a tar file with model.toml and model.onnx"),
            ];
        }
    };
    let roles: BTreeSet<&str> = bundle
        .inputs()
        .iter()
        .map(|input| input.role.as_str())
        .collect();
    let names: Vec<&str> = roles.iter().copied().collect();
    let mut problems = Vec::new();
    for role in model.inputs.keys() {
        if !roles.contains(role.as_str()) {
            let hint = match nearest(role, names.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the bundle has the roles {}", all_of(&names)),
            };
            let message = format!("inputs has {role}; the bundle has no such role");
            problems.push(problem(message).value(role.as_str()).hint(hint));
        }
    }
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|role| !model.inputs.contains_key(*role))
        .collect();
    if !missing.is_empty() {
        let message = format!(
            "inputs has no tag for {}, which the bundle needs",
            all_of(&missing)
        );
        let hint = format!(
            "add lines such as {} = \"device/tag\" to [model.inputs]",
            missing[0]
        );
        problems.push(problem(message).hint(hint));
    }
    problems
}
