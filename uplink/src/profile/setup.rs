//! A definition, joined to a gateway and the variables of an uplink.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use super::definition::{CodecName, Compression, Definition};
use super::{Profile, Topics, find};
use crate::codec::template::{TemplateTexts, Templates};
use crate::codec::{Codec, Piece};

/// What an uplink says that does not fit its profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A variable is missing. Add it.
    #[error("the profile {profile} needs the variable {name}: {about}")]
    Missing {
        /// Which profile.
        profile: String,
        /// Which variable.
        name: String,
        /// What it means.
        about: String,
    },
    /// The profile knows no such variable. Correct or remove it.
    #[error("the profile {profile} has no variable {name}; it has {known}")]
    Unknown {
        /// Which profile.
        profile: String,
        /// Which variable.
        name: String,
        /// Those that it has.
        known: String,
    },
    /// With these variables a topic is none that the core takes. Correct the variable.
    #[error("the topic {key} would be `{topic}`: {problem}")]
    Topic {
        /// Which topic.
        key: &'static str,
        /// The topic.
        topic: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Profile {
    /// The profile `generic` for the gateway of this id.
    pub fn generic(gateway: impl Into<String>) -> Self {
        let definition = find("generic", None).map(Arc::new);
        definition
            .ok()
            .and_then(|definition| {
                Self::new(definition, gateway.into(), &BTreeMap::new(), &[]).ok()
            })
            .expect("the built-in profile is checked by a test")
    }

    /// Joins a profile to a gateway, the variables of an uplink, and the names of the devices and models that
    /// it sends.
    ///
    /// # Errors
    /// When the variables do not fit.
    pub fn new(
        definition: Arc<Definition>,
        gateway: impl Into<String>,
        vars: &BTreeMap<String, String>,
        sources: &[&str],
    ) -> Result<Self, SetupError> {
        let gateway = gateway.into();
        let vars = all_vars(&definition, vars, &gateway)?;
        let bind = |key: &'static str, template: &crate::topic::TopicTemplate| {
            let bound = template.bind(&gateway, &vars, &definition.rules);
            match bound.problem(false) {
                None => Ok(bound),
                Some(problem) => Err(SetupError::Topic {
                    key,
                    topic: bound.render("source", "tag", "id"),
                    problem,
                }),
            }
        };
        let optional = |key, template: &Option<crate::topic::TopicTemplate>| {
            template
                .as_ref()
                .map(|template| bind(key, template))
                .transpose()
        };
        let fixed = |key, template: &Option<crate::topic::TopicTemplate>| {
            let bound = optional(key, template)?;
            Ok(bound.map(|bound| bound.render("", "", "")))
        };
        let written = &definition.topics;
        let topics = Topics {
            data: match &written.data {
                Some(template) => bind("data", template)?,
                None => unreachable!("a definition without a topic for data is refused"),
            },
            event: optional("event", &written.event)?,
            gap: fixed("gap", &written.gap)?,
            status: fixed("status", &written.status)?,
            clock: fixed("clock", &written.clock)?,
        };
        let mut ways = Vec::new();
        for way in &definition.commands {
            let bound = way.bind(&gateway, &vars, &definition.rules);
            ways.extend(bound.map_err(|(topic, problem)| SetupError::Topic {
                key: "command",
                topic,
                problem,
            })?);
        }
        for name in ["group", "node"] {
            let is_missing = vars.get(name).is_some_and(String::is_empty);
            if definition.codec == CodecName::Sparkplug && is_missing {
                return Err(SetupError::Missing {
                    profile: definition.name.clone(),
                    name: name.to_owned(),
                    about: definition.vars[name].about.clone(),
                });
            }
        }
        let greeting = greeting(&definition, &gateway, &vars, sources);
        Ok(Self {
            codec: codec(&definition),
            greeting,
            topics,
            ways,
            vars,
            gateway,
            definition,
            compression: None,
            sealed: false,
            sealer: RwLock::default(),
        })
    }

    /// The same with payloads compressed and sealed. Sealing needs [`Profile::unlock`] before the first message.
    #[must_use]
    pub fn packed(mut self, compression: Option<Compression>, sealed: bool) -> Self {
        self.compression = compression;
        self.sealed = sealed;
        self
    }
}

/// The variables that were given, and the defaults of the others; `{gateway}` in them is the gateway.
fn all_vars(
    definition: &Definition,
    given: &BTreeMap<String, String>,
    gateway: &str,
) -> Result<BTreeMap<String, String>, SetupError> {
    if let Some(name) = given
        .keys()
        .find(|name| !definition.vars.contains_key(*name))
    {
        let known: Vec<&str> = definition.vars.keys().map(String::as_str).collect();
        return Err(SetupError::Unknown {
            profile: definition.name.clone(),
            name: name.clone(),
            known: match known.is_empty() {
                true => "none".to_owned(),
                false => known.join(", "),
            },
        });
    }
    let mut all = BTreeMap::new();
    for (name, variable) in &definition.vars {
        let value = given.get(name).or(variable.default.as_ref());
        let value = value.ok_or_else(|| SetupError::Missing {
            profile: definition.name.clone(),
            name: name.clone(),
            about: variable.about.clone(),
        })?;
        all.insert(name.clone(), value.replace("{gateway}", gateway));
    }
    Ok(all)
}

fn codec(definition: &Definition) -> Codec {
    match definition.codec {
        CodecName::Json => Codec::Json,
        CodecName::SenmlJson => Codec::SenmlJson,
        CodecName::SenmlCbor => Codec::SenmlCbor,
        CodecName::ThingsBoard => Codec::ThingsBoard,
        CodecName::InfluxLine => Codec::InfluxLine,
        CodecName::SmartRest => Codec::SmartRest,
        CodecName::Sparkplug => Codec::Sparkplug,
        CodecName::Template => {
            let texts = definition.template.clone().unwrap_or_default();
            match Templates::compile(texts) {
                Ok(templates) => Codec::Template(Box::new(templates)),
                Err(_) => unreachable!("a definition with a wrong template is refused"),
            }
        }
    }
}

/// The further messages of a connect. One whose template fails is left out; the log says so.
fn greeting(
    definition: &Definition,
    gateway: &str,
    vars: &BTreeMap<String, String>,
    sources: &[&str],
) -> Vec<Piece> {
    let mut messages = Vec::new();
    for step in &definition.greeting {
        let missing = |name: &String| vars.get(name).is_none_or(String::is_empty);
        if step.needs.as_ref().is_some_and(missing) {
            continue;
        }
        let topic = step.topic.bind(gateway, vars, &definition.rules);
        let texts = TemplateTexts {
            data: step.payload.clone(),
            json: step.json,
            ..TemplateTexts::default()
        };
        let Ok(templates) = Templates::compile(texts) else {
            continue;
        };
        let each: &[&str] = if step.each_source { sources } else { &[""] };
        for source in each {
            match templates.greeting(gateway, source, vars, definition.rules.names) {
                Ok(payload) => messages.push(Piece {
                    topic: topic.render(source, "", ""),
                    payload: payload.into_bytes(),
                    range: (0, 0),
                }),
                Err(problem) => tracing::error!(
                    profile = definition.name,
                    problem,
                    "a message of the profile's greeting fails"
                ),
            }
        }
    }
    messages
}
