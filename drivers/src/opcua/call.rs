//! Calling a method: its arguments are checked against what it says it takes.

use millrace_tags::Value;
use opcua::types::{
    Argument, AttributeId, BrowseDirection, CallMethodRequest, CallMethodResult, CallRequest,
    CallResponse, NodeClass, NodeId, ReferenceTypeId, StatusCode, Variant,
};

use super::NodeAddress;
use super::decode;
use super::encode::Target;
use super::json::{Lexicon, qualified};
use super::references::{query, references};
use super::server::attributes;
use super::tool::OpcuaTool;
use super::types::Shape;
use crate::SessionError;

/// What a method gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Called {
    /// The method that was called.
    pub method: String,
    /// Name and value of each output.
    pub outputs: Vec<(String, Option<Value>)>,
}

/// Why a method gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no such method: nothing was called.
    #[error("{message}")]
    Unknown {
        /// Which, and what there is.
        message: String,
    },
    /// An argument does not fit: nothing was called.
    #[error("{method} was not called: {message}; it takes {takes}")]
    Unfit {
        /// The method.
        method: String,
        /// The argument, and what fits.
        message: String,
        /// All its arguments.
        takes: String,
    },
    /// The server refused, or the method failed.
    #[error("{method} failed: {message}")]
    Failed {
        /// The method.
        method: String,
        /// What the server said.
        message: String,
    },
    /// The session broke: whether the method ran is not known.
    #[error("the call was cut off; whether it was done is not known")]
    Session(#[from] SessionError),
}

impl OpcuaTool {
    /// Calls a method of an object with arguments as typed. The method is named by its node or by its browse name.
    ///
    /// # Errors
    /// Where there is no such method, an argument does not fit, or the method fails.
    pub async fn call(
        &self,
        object: &NodeAddress,
        method: &str,
        arguments: &[String],
    ) -> Result<Called, CallError> {
        let object_id = self
            .node(object)
            .map_err(|message| CallError::Unknown { message })?;
        let method_id = self.method(object, &object_id, method).await?;
        let (inputs, outputs) = self.arguments(&method_id).await?;
        let encoded = self.encoded(method, &inputs, arguments).await?;
        let request = CallRequest {
            request_header: self.channel.header(self.channel.timeout()),
            methods_to_call: Some(vec![CallMethodRequest {
                object_id,
                method_id,
                input_arguments: (!encoded.is_empty()).then_some(encoded),
            }]),
        };
        let sent = self
            .channel
            .send::<CallResponse>(request, self.channel.timeout());
        let failed = |message: String| CallError::Failed {
            method: method.to_owned(),
            message,
        };
        let result = match sent.await {
            Ok(response) => response.results.unwrap_or_default().into_iter().next(),
            Err(error) => {
                let session = self.channel.asked("Call").failed(&error);
                if self.channel.is_cut() || matches!(session, SessionError::Timeout { .. }) {
                    return Err(session.into());
                }
                return Err(failed(error.status().to_string()));
            }
        };
        let result =
            result.ok_or_else(|| failed("the server did not say what it did".to_owned()))?;
        if result.status_code.is_bad() {
            return Err(failed(said(&result, &inputs)));
        }
        Ok(Called {
            method: method.to_owned(),
            outputs: self.shown(&outputs, result.output_arguments).await?,
        })
    }

    async fn method(
        &self,
        object: &NodeAddress,
        object_id: &NodeId,
        method: &str,
    ) -> Result<NodeId, CallError> {
        if let Ok(address) = method.parse::<NodeAddress>() {
            return self
                .node(&address)
                .map_err(|message| CallError::Unknown { message });
        }
        let all = query(
            object_id.clone(),
            BrowseDirection::Forward,
            ReferenceTypeId::HasComponent,
        );
        let found = references(&self.channel, vec![all])
            .await?
            .into_iter()
            .next();
        let found = found
            .unwrap_or(Ok(Vec::new()))
            .map_err(|status| CallError::Unknown {
                message: format!("{object}: {status}"),
            })?;
        let methods: Vec<_> = found
            .into_iter()
            .filter(|reference| reference.node_class == NodeClass::Method)
            .collect();
        let named = methods.iter().find(|reference| {
            let name = &reference.browse_name;
            name.name.as_ref() == method || qualified(name) == method
        });
        if let Some(named) = named {
            return Ok(named.node_id.node_id.clone());
        }
        let known: Vec<String> = methods.iter().map(|r| qualified(&r.browse_name)).collect();
        let known = match known.is_empty() {
            true => "it has none".to_owned(),
            false => format!("it has {}", known.join(", ")),
        };
        Err(CallError::Unknown {
            message: format!("{object} has no method {method}; {known}"),
        })
    }

    /// Inputs and outputs as the method describes them.
    async fn arguments(
        &self,
        method: &NodeId,
    ) -> Result<(Vec<Argument>, Vec<Argument>), SessionError> {
        let all = query(
            method.clone(),
            BrowseDirection::Forward,
            ReferenceTypeId::HasProperty,
        );
        let properties = references(&self.channel, vec![all])
            .await?
            .into_iter()
            .next();
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for property in properties.unwrap_or(Ok(Vec::new())).unwrap_or_default() {
            let target = match property.browse_name.name.as_ref() {
                "InputArguments" => &mut inputs,
                "OutputArguments" => &mut outputs,
                _ => continue,
            };
            let asked = vec![(property.node_id.node_id, AttributeId::Value)];
            let read = attributes(&self.channel, asked).await?.into_iter().next();
            if let Some(Variant::Array(array)) = read.and_then(|data| data.value) {
                target.extend(array.values.iter().filter_map(argument));
            }
        }
        Ok((inputs, outputs))
    }

    async fn encoded(
        &self,
        method: &str,
        inputs: &[Argument],
        typed: &[String],
    ) -> Result<Vec<Variant>, CallError> {
        let mut described = Vec::new();
        let mut shapes = Vec::new();
        for input in inputs {
            let shape = self.types.shape(&self.channel, &input.data_type).await?;
            described.push(describe(input, &shape));
            shapes.push(shape);
        }
        let takes = match described.is_empty() {
            true => "no arguments".to_owned(),
            false => described.join(", "),
        };
        let unfit = |message: String| CallError::Unfit {
            method: method.to_owned(),
            message,
            takes: takes.clone(),
        };
        if typed.len() != inputs.len() {
            return Err(unfit(format!(
                "{} arguments were given, {} are taken",
                typed.len(),
                inputs.len()
            )));
        }
        let mut encoded = Vec::new();
        for ((input, shape), text) in inputs.iter().zip(&shapes).zip(typed) {
            let target = Target {
                shape,
                is_array: input.value_rank >= 0,
                present: &Variant::Empty,
            };
            let variant = target.encode(&target.typed(text));
            encoded.push(variant.map_err(|why| unfit(format!("{}: {why}", input.name)))?);
        }
        Ok(encoded)
    }

    async fn shown(
        &self,
        outputs: &[Argument],
        values: Option<Vec<Variant>>,
    ) -> Result<Vec<(String, Option<Value>)>, SessionError> {
        let values = values.unwrap_or_default();
        let data: Vec<_> = values
            .into_iter()
            .map(opcua::types::DataValue::value_only)
            .collect();
        let unnamed = |_: usize| None;
        self.types
            .learn(&self.channel, data.iter().enumerate(), unnamed)
            .await?;
        let mut shapes = Vec::new();
        for output in outputs {
            shapes.push(self.types.shape(&self.channel, &output.data_type).await?);
        }
        let (known, context) = (self.types.read(), self.channel.context().read());
        let lexicon = Lexicon::new(&known, &context);
        let shown = data.iter().enumerate().map(|(place, data)| {
            let names = match shapes.get(place) {
                Some(Shape::Enumeration(names)) => Some(&**names),
                _ => None,
            };
            let name = outputs.get(place).map(|output| output.name.to_string());
            let name = name.unwrap_or_else(|| format!("output {place}"));
            (name, decode::shown(data, names, &lexicon))
        });
        Ok(shown.collect())
    }
}

fn argument(variant: &Variant) -> Option<Argument> {
    match variant {
        Variant::ExtensionObject(object) => object.inner_as::<Argument>().cloned(),
        _ => None,
    }
}

fn describe(argument: &Argument, shape: &Shape) -> String {
    let kind = match shape {
        Shape::BuiltIn(kind) => kind.to_string(),
        Shape::Enumeration(names) => names.listed(),
        Shape::Structure(_) | Shape::Unknown => argument.data_type.to_string(),
    };
    let array = if argument.value_rank >= 0 { "[]" } else { "" };
    format!("{} ({kind}{array})", argument.name)
}

/// The server's no, and which arguments it is about.
fn said(result: &CallMethodResult, inputs: &[Argument]) -> String {
    let mut text = result.status_code.to_string();
    let each = result.input_argument_results.iter().flatten();
    for (status, input) in each.zip(inputs) {
        if *status != StatusCode::Good {
            text.push_str(&format!("; {}: {status}", input.name));
        }
    }
    text
}
