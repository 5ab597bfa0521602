//! The frame that makes a kernel an operator of the engine.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tract_onnx::Onnx;
use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::{NodeProto, TensorProto};
use tract_onnx::tract_hir::internal::*;

use super::error::OperatorError;

/// The type and shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) datum: DatumType,
    pub(super) shape: Vec<usize>,
}

impl Form {
    pub(super) fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Self {
            datum: DatumType::F32,
            shape: shape.into(),
        }
    }

    pub(super) fn i64(shape: impl Into<Vec<usize>>) -> Self {
        Self {
            datum: DatumType::I64,
            shape: shape.into(),
        }
    }
}

/// One operator's computation. It holds what the file says, checked, and nothing that a run leaves behind.
pub(super) trait Kernel: fmt::Debug + Send + Sync + 'static {
    /// The operator's name.
    fn name(&self) -> &'static str;

    /// What comes out of inputs of these forms; an error if they do not fit. [`Kernel::run`] gets no others.
    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String>;

    /// The outputs, of the forms that [`Kernel::forms`] tells.
    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>>;

    /// A kernel that has taken in those of its inputs that are constant, and the places of the others; `None` where that is
    /// no gain.
    fn fold(&self, _constants: &[Option<Arc<Tensor>>]) -> Option<Folded> {
        None
    }
}

/// See [`Kernel::fold`].
pub(super) struct Folded {
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) inputs: Vec<usize>,
}

/// Reads a kernel from a node of the file; the error says what is wrong with the node.
pub(super) type Read = fn(&NodeProto) -> Result<Arc<dyn Kernel>, String>;

/// The engine's register takes functions without a state, hence one for each operator.
macro_rules! register {
    ($operators:expr, $($name:literal => $read:path),+ $(,)?) => {$(
        $operators.insert($name, |_, node| $crate::onnx::ops::kernel::build(node, $read));
    )+};
}
pub(super) use register;

/// What the register of operators holds.
pub(super) type Operators = OnnxOpRegister;

/// One node of the file as an operator of the engine.
pub(super) fn build(
    node: &NodeProto,
    read: Read,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    build_with(node, read)
}

/// The same, with what is known of the node already.
pub(super) fn build_with(
    node: &NodeProto,
    read: impl FnOnce(&NodeProto) -> Result<Arc<dyn Kernel>, String>,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let kernel = read(node).map_err(|problem| OperatorError {
        operator: node.op_type.clone(),
        node: node.name.clone(),
        problem,
    })?;
    let wanted = node.output.iter().enumerate();
    let outputs = wanted.filter(|(_, name)| !name.is_empty());
    let own = Own {
        kernel,
        node: Arc::from(node.name.as_str()),
        inputs: node.input.iter().filter(|name| !name.is_empty()).count(),
        outputs: outputs.map(|(place, _)| place).collect(),
    };
    Ok((expand(own), vec![]))
}

/// The node as the engine has it, for what a kernel of ours is no gain for.
pub(super) fn engines(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    static ENGINE: OnceLock<Onnx> = OnceLock::new();
    let engine = ENGINE.get_or_init(tract_onnx::onnx);
    let builder = engine.op_register.0.get(&node.op_type);
    builder.context("the engine has no such operator")?(context, node)
}

/// A constant of the graph that is being read.
pub(super) fn initializer<'a>(context: &ParsingContext<'a>, name: &str) -> Option<&'a TensorProto> {
    let graph = context.parent_graphs.last()?;
    graph.initializer.iter().find(|tensor| tensor.name == name)
}

/// A kernel in the graph.
#[derive(Debug, Clone)]
struct Own {
    kernel: Arc<dyn Kernel>,
    node: Arc<str>,
    inputs: usize,
    /// Which of the kernel's outputs the file wants.
    outputs: Arc<[usize]>,
}

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.kernel, &other.kernel) && self.outputs == other.outputs
    }
}

impl Eq for Own {}

impl Own {
    fn forms(&self, inputs: &[Form]) -> TractResult<Vec<Form>> {
        let fault = |problem| OperatorError {
            operator: self.kernel.name().to_owned(),
            node: self.node.to_string(),
            problem,
        };
        let forms = self.kernel.forms(inputs).map_err(fault)?;
        let wanted = self.outputs.iter().map(|place| forms.get(*place).cloned());
        wanted
            .collect::<Option<_>>()
            .ok_or_else(|| fault("more outputs than the operator has".to_owned()).into())
    }
}

impl Op for Own {
    fn name(&self) -> StaticName {
        self.kernel.name().into()
    }

    op_as_typed_op!();
}

impl EvalOp for Own {
    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut outputs: Vec<Option<Tensor>> =
            self.kernel.run(&inputs)?.into_iter().map(Some).collect();
        let take = |place: &usize| {
            let output = outputs.get_mut(*place).and_then(Option::take);
            output.map(Tensor::into_tvalue)
        };
        let wanted: Option<TVec<TValue>> = self.outputs.iter().map(take).collect();
        wanted.context("an output is missing")
    }

    op_out_of_plan!();
}

impl TypedOp for Own {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let form = |fact: &&TypedFact| {
            let shape = fact.shape.as_concrete().context("a shape is open")?;
            Ok(Form {
                datum: fact.datum_type,
                shape: shape.to_vec(),
            })
        };
        let inputs: Vec<Form> = inputs.iter().map(form).collect::<TractResult<_>>()?;
        let forms = self.forms(&inputs)?;
        Ok(forms
            .iter()
            .map(|form| form.datum.fact(&form.shape))
            .collect())
    }

    fn codegen(
        &self,
        model: &TypedModel,
        node: &TypedNode,
    ) -> TractResult<Option<TypedModelPatch>> {
        let constant = |input: &OutletId| Ok(model.outlet_fact(*input)?.konst.clone());
        let constants: Vec<_> = node
            .inputs
            .iter()
            .map(constant)
            .collect::<TractResult<_>>()?;
        let Some(folded) = self.kernel.fold(&constants) else {
            return Ok(None);
        };
        let kept: TVec<OutletId> = folded
            .inputs
            .iter()
            .map(|place| node.inputs[*place])
            .collect();
        let own = Self {
            kernel: folded.kernel,
            inputs: kept.len(),
            ..self.clone()
        };
        TypedModelPatch::replace_single_op(model, node, &kept, own).map(Some)
    }

    as_op!();
}

impl Expansion for Own {
    fn name(&self) -> StaticName {
        self.kernel.name().into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs.len())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.inputs)?;
        check_output_arity(outputs, self.outputs.len())?;
        let shapes = inputs.iter().map(|input| &input.shape);
        solver.given_all(shapes, move |solver, shapes| {
            let types = inputs.iter().map(|input| &input.datum_type);
            solver.given_all(types, move |solver, types| {
                let mut forms = Vec::new();
                for (datum, shape) in types.into_iter().zip(&shapes) {
                    let shape = shape.iter().map(TDim::to_usize);
                    let Ok(shape) = shape.collect::<Result<Vec<usize>, _>>() else {
                        return Ok(()); // an open shape: it is known when the graph is typed, or refused there
                    };
                    forms.push(Form { datum, shape });
                }
                for (output, form) in outputs.iter().zip(self.forms(&forms)?) {
                    solver.equals(&output.datum_type, form.datum)?;
                    let shape: TVec<TDim> = form.shape.iter().map(|dim| dim.to_dim()).collect();
                    solver.equals(&output.shape, shape)?;
                }
                Ok(())
            })
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

/// The rows and columns of a tensor that an operator on features takes: one row where there is no first dimension.
pub(super) fn rows_and_columns(form: Option<&Form>) -> Result<(usize, usize), String> {
    let form = form.ok_or("it has no input")?;
    match form.shape.as_slice() {
        [columns] => Ok((1, *columns)),
        [rows, columns] => Ok((*rows, *columns)),
        shape => Err(format!(
            "its input has the shape {shape:?}; expected rows and columns"
        )),
    }
}

/// The numbers of an input, in single precision.
pub(super) fn floats(inputs: &[TValue], place: usize) -> TractResult<Cow<'_, Tensor>> {
    let input = inputs.get(place).context("an input is missing")?;
    input.cast_to::<f32>()
}
