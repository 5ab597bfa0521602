//! The methods of the simulated server.

use opcua::types::{
    Argument, DataTypeId, Identifier, LocalizedText, NodeId, QualifiedName, StatusCode, Variant,
};
use opcua_server::address_space::AddressSpace;
use opcua_server::address_space::MethodBuilder;
use opcua_server::node_manager::MethodCall;
use tokio::sync::mpsc;

use super::faults::Upset;

/// The product of two numbers.
const MULTIPLY: &str = "Multiply";

/// An upset by its words, at once: `drop`, `restart 2s`.
const MISBEHAVE: &str = "Misbehave";

/// A single value, no array.
const SCALAR: i32 = -1;

/// Adds the methods below `folder`.
pub(super) fn furnish(space: &mut AddressSpace, namespace: u16, folder: &NodeId) {
    let number = |name: &str| argument(name, DataTypeId::Double);
    let multiply = [number("a"), number("b")];
    add(
        space,
        namespace,
        folder,
        MULTIPLY,
        &multiply,
        &[number("product")],
    );
    let misbehave = [argument("fault", DataTypeId::String)];
    add(space, namespace, folder, MISBEHAVE, &misbehave, &[]);
}

fn add(
    space: &mut AddressSpace,
    namespace: u16,
    folder: &NodeId,
    name: &str,
    inputs: &[Argument],
    outputs: &[Argument],
) {
    let id = |part: &str| NodeId::new(namespace, format!("{name}{part}"));
    MethodBuilder::new(&id(""), QualifiedName::new(namespace, name), name)
        .component_of(folder.clone())
        .input_args(space, &id(".Input"), inputs)
        .output_args(space, &id(".Output"), outputs)
        .insert(space);
}

fn argument(name: &str, data_type: DataTypeId) -> Argument {
    Argument {
        name: name.into(),
        data_type: data_type.into(),
        value_rank: SCALAR,
        array_dimensions: None,
        description: LocalizedText::null(),
    }
}

/// Carries a call out. Upsets go to `upsets`.
pub(super) fn call(call: &mut MethodCall, upsets: &mpsc::Sender<Upset>) {
    let name = match &call.method_id().identifier {
        Identifier::String(name) => name.as_ref().to_owned(),
        _ => String::new(),
    };
    match (name.as_str(), call.arguments()) {
        (MULTIPLY, [Variant::Double(a), Variant::Double(b)]) => {
            let product = a * b;
            call.set_outputs(vec![product.into()]);
            call.set_status(StatusCode::Good);
        }
        (MISBEHAVE, [Variant::String(words)]) => {
            let sent = words.as_ref().parse().map(|upset| upsets.try_send(upset));
            call.set_status(match sent {
                Ok(Ok(())) => StatusCode::Good,
                // Others are on their way already.
                Ok(Err(_)) => StatusCode::BadTooManyOperations,
                Err(_) => StatusCode::BadInvalidArgument,
            });
        }
        _ => call.set_status(StatusCode::BadInvalidArgument),
    }
}
