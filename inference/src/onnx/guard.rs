//! What the engine computes beforehand, and how large it may become.
//!
//! While it works out the shapes, the engine computes whatever hangs on constants only: the lengths that a graph computes, and then
//! the tensors of these lengths. [`super::bounds`] sees neither in the file. So every operator of the engine is built inside of a
//! [`Guarded`], which is asked first how large the results will be, and refuses it by the name of its node.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};

use tract_onnx::Onnx;
use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::bounds::{ELEMENTS_MAX, elements};
use super::ops;

/// A node whose results would be too large: see [`super::BuildError::TooLarge`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("{place:?} asks for too much memory: {what}")]
pub(super) struct TooLarge {
    pub(super) place: String,
    pub(super) what: String,
}

/// All of it together: comparing such constants with each other takes time, too.
const COMPUTED_MAX: u64 = 1 << 24;

thread_local! {
    /// Elements of what the engine has computed beforehand for the model that this thread is reading.
    static COMPUTED: Cell<u64> = const { Cell::new(0) };
}

/// The engine with our operators, for one model; the model is to be built in this thread.
pub(super) fn engine() -> Onnx {
    COMPUTED.set(0);
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
    let guarded = operators().0.keys().cloned().map(|name| (name, build as _));
    onnx.op_register = OnnxOpRegister(guarded.collect());
    onnx
}

/// The operators as they are.
fn operators() -> &'static OnnxOpRegister {
    static OPERATORS: OnceLock<OnnxOpRegister> = OnceLock::new();
    OPERATORS.get_or_init(|| {
        let mut onnx = tract_onnx::onnx();
        ops::register(&mut onnx);
        onnx.op_register
    })
}

/// One for all operators, as the engine's register takes functions without a state.
fn build(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let builder = operators().0.get(&node.op_type);
    let builder = builder.context("an operator that is not registered")?;
    let (op, closures) = builder(context, node)?;
    let name = match (node.name.as_str(), node.output.first()) {
        ("", Some(output)) => output,
        (name, _) => name,
    };
    let guarded = Guarded {
        node: Arc::from(name),
        op,
    };
    Ok((Box::new(guarded), closures))
}

/// An operator of a graph whose shapes are being worked out. In all else it is the operator itself.
#[derive(Debug, Clone)]
struct Guarded {
    node: Arc<str>,
    op: Box<dyn InferenceOp>,
}

impl Guarded {
    fn check(&self, outputs: &[InferenceFact]) -> TractResult<()> {
        for fact in outputs {
            let Some(shape) = fact.shape.concretize() else {
                continue;
            };
            let lengths: Option<Vec<i64>> = shape.iter().map(|dim| dim.as_i64()).collect();
            if let Some(lengths) = lengths
                && elements(&lengths).is_none_or(|elements| elements > ELEMENTS_MAX)
            {
                return self.refuse(format!("an output of the shape {lengths:?}"));
            }
        }
        Ok(())
    }

    /// Counts what has become known.
    fn count(&self, before: &[InferenceFact], after: &[InferenceFact]) -> TractResult<()> {
        let is_new = |(before, after): &(&InferenceFact, &InferenceFact)| {
            !before.value.is_concrete() && after.value.is_concrete()
        };
        let new = before.iter().zip(after).filter(is_new);
        let new = new.filter_map(|(_, fact)| fact.value.concretize());
        let all = new.fold(COMPUTED.get(), |all, tensor| {
            all.saturating_add(tensor.volume() as u64)
        });
        COMPUTED.set(all);
        if all > COMPUTED_MAX {
            return self.refuse(format!("{all} elements of constants up to here"));
        }
        Ok(())
    }

    fn refuse(&self, what: String) -> TractResult<()> {
        let place = self.node.to_string();
        Err(TooLarge { place, what }.into())
    }
}

impl PartialEq for Guarded {
    fn eq(&self, other: &Self) -> bool {
        self.op.as_op() == other.op.as_op()
    }
}

impl Eq for Guarded {}

impl Op for Guarded {
    fn name(&self) -> StaticName {
        self.op.name()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        self.op.info()
    }

    fn validation(&self) -> Validation {
        self.op.validation()
    }

    not_a_typed_op!();
}

impl EvalOp for Guarded {
    fn eval(&self, context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.op.eval(context, inputs)
    }

    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        self.op.eval_out_of_plan(inputs)
    }

    fn state(&self, context: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        self.op.state(context)
    }
}

impl InferenceOp for Guarded {
    fn infer(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(
        TVec<InferenceFact>,
        TVec<InferenceFact>,
        TVec<InferenceFact>,
    )> {
        let before: TVec<InferenceFact> = outputs.iter().map(|fact| (*fact).clone()).collect();
        // Only then does the engine compute anything.
        if !inputs.is_empty() && inputs.iter().all(|fact| fact.value.is_concrete()) {
            let facts = self
                .op
                .infer_facts(inputs.clone(), outputs.clone(), observed.clone())?;
            self.check(&facts.1)?;
        }
        let facts = self.op.infer(inputs, outputs, observed)?;
        self.check(&facts.1)?;
        self.count(&before, &facts.1)?;
        Ok(facts)
    }

    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(
        TVec<InferenceFact>,
        TVec<InferenceFact>,
        TVec<InferenceFact>,
    )> {
        self.op.infer_facts(inputs, outputs, observed)
    }

    fn observe_outlets(
        &self,
        model: &InferenceModel,
        node: &InferenceNode,
    ) -> TractResult<Vec<OutletId>> {
        self.op.observe_outlets(model, node)
    }

    fn incorporate(
        &self,
        model: &InferenceModel,
        node: &InferenceNode,
    ) -> TractResult<Option<InferenceModelPatch>> {
        self.op.incorporate(model, node)
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.op.nboutputs()
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        self.op.to_typed(source, node, target, mapping)
    }

    /// So that whoever looks for operators of a kind finds it.
    fn as_op(&self) -> &dyn Op {
        self.op.as_op()
    }

    fn as_op_mut(&mut self) -> &mut dyn Op {
        self.op.as_op_mut()
    }
}
