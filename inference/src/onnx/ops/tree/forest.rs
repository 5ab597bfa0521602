//! The trees themselves: read, checked, walked.

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;

use crate::onnx::ops::attribute;

/// How a node compares its feature with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
    Leaf,
}

impl Mode {
    fn read(name: &str) -> Result<Self, String> {
        Ok(match name {
            "BRANCH_LEQ" => Self::LessOrEqual,
            "BRANCH_LT" => Self::Less,
            "BRANCH_GTE" => Self::GreaterOrEqual,
            "BRANCH_GT" => Self::Greater,
            "BRANCH_EQ" => Self::Equal,
            "BRANCH_NEQ" => Self::NotEqual,
            "LEAF" => Self::Leaf,
            other => {
                return Err(format!(
                    "nodes_modes has {other:?}; expected BRANCH_LEQ or its like, or LEAF"
                ));
            }
        })
    }
}

/// A node, or a leaf, whose `yes..no` are then its weights.
#[derive(Debug, Clone, Copy)]
struct Node {
    value: f32,
    feature: u32,
    yes: u32,
    no: u32,
    mode: Mode,
    missing_is_yes: bool,
}

/// A leaf's part in one target's or class's score.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    pub(super) target: u32,
    pub(super) weight: f32,
}

/// All trees of an ensemble.
#[derive(Debug)]
pub(super) struct Forest {
    nodes: Vec<Node>,
    roots: Vec<u32>,
    weights: Vec<Weight>,
    /// How many features a row must have.
    features: usize,
}

impl Forest {
    /// Reads the nodes, and the leaves' weights from the attributes that begin with `leaf` (`target` or `class`).
    pub(super) fn read(node: &NodeProto, leaf: &str, targets: usize) -> Result<Self, String> {
        attribute::refuse_tensors(node)?;
        let table = Table::read(node)?;
        let weights = leaf_weights(node, leaf, targets, &table)?;
        let mut forest = Self {
            nodes: Vec::with_capacity(table.modes.len()),
            roots: Vec::new(),
            weights: Vec::new(),
            features: 0,
        };
        for root in table.roots()? {
            let place = forest.lay(&table, &weights, root)?;
            forest.roots.push(place);
        }
        // With one parent for each node and all trees laid, what is missing hangs on itself.
        if forest.nodes.len() != table.modes.len() {
            return Err(format!(
                "{} of {} nodes are reached from no root: the trees hold a circle",
                table.modes.len() - forest.nodes.len(),
                table.modes.len()
            ));
        }
        Ok(forest)
    }

    /// Lays one tree, each node before its children; gives the place of the root.
    fn lay(
        &mut self,
        table: &Table<'_>,
        weights: &[Vec<Weight>],
        root: usize,
    ) -> Result<u32, String> {
        let place = |n: usize| u32::try_from(n).map_err(|_| "too many nodes".to_owned());
        let first = place(self.nodes.len())?;
        // What is to be laid, and where its place is to be noted: in which node, as which child.
        let mut open: Vec<(usize, Option<(usize, bool)>)> = vec![(root, None)];
        while let Some((from, parent)) = open.pop() {
            let at = place(self.nodes.len())?;
            match parent {
                Some((parent, true)) => self.nodes[parent].yes = at,
                Some((parent, false)) => self.nodes[parent].no = at,
                None => {}
            }
            let mut node = Node {
                value: table.values[from],
                feature: 0,
                yes: 0,
                no: 0,
                mode: table.modes[from],
                missing_is_yes: table.missing.get(from) == Some(&1),
            };
            if node.mode == Mode::Leaf {
                node.yes = place(self.weights.len())?;
                self.weights.extend(&weights[from]);
                node.no = place(self.weights.len())?;
            } else {
                let feature = attribute::index("nodes_featureids", table.features[from])?;
                self.features = self.features.max(feature.saturating_add(1));
                node.feature = place(feature)?;
                let (yes, no) = table.children[from];
                let here = self.nodes.len();
                open.push((no, Some((here, false))));
                open.push((yes, Some((here, true))));
            }
            self.nodes.push(node);
        }
        Ok(first)
    }

    /// How many features a row must have.
    pub(super) fn features(&self) -> usize {
        self.features
    }

    /// How many trees there are.
    pub(super) fn trees(&self) -> usize {
        self.roots.len()
    }

    /// Which targets any leaf speaks of, and whether all weights are 0 or more.
    pub(super) fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// Gives the weights of the leaf that a row falls into in each tree, tree after tree.
    #[inline]
    pub(super) fn walk(&self, row: &[f32], mut leaf: impl FnMut(&[Weight])) {
        for root in &self.roots {
            let mut node = &self.nodes[*root as usize];
            // Children stand behind their parents, so this ends.
            while node.mode != Mode::Leaf {
                let x = row[node.feature as usize];
                let yes = match node.mode {
                    Mode::LessOrEqual => x <= node.value,
                    Mode::Less => x < node.value,
                    Mode::GreaterOrEqual => x >= node.value,
                    Mode::Greater => x > node.value,
                    Mode::Equal => x == node.value,
                    Mode::NotEqual => x != node.value,
                    Mode::Leaf => break,
                } || (node.missing_is_yes && x.is_nan());
                let next = if yes { node.yes } else { node.no };
                node = &self.nodes[next as usize];
            }
            leaf(&self.weights[node.yes as usize..node.no as usize]);
        }
    }
}

/// The columns of the file, checked one by one.
struct Table<'a> {
    /// Where each tree's nodes stand, by tree and number of the node.
    places: HashMap<(i64, i64), usize>,
    trees: &'a [i64],
    features: &'a [i64],
    values: &'a [f32],
    missing: &'a [i64],
    modes: Vec<Mode>,
    /// Which stand for yes and no; of a leaf, nothing.
    children: Vec<(usize, usize)>,
}

impl<'a> Table<'a> {
    fn read(node: &'a NodeProto) -> Result<Self, String> {
        let trees = attribute::ints(node, "nodes_treeids")?;
        let column = |name| {
            let column = attribute::ints(node, name)?;
            attribute::expect_len(name, column.len(), trees.len()).map(|()| column)
        };
        let (ids, features) = (column("nodes_nodeids")?, column("nodes_featureids")?);
        let (yes, no) = (column("nodes_truenodeids")?, column("nodes_falsenodeids")?);
        let values = attribute::floats(node, "nodes_values")?;
        attribute::expect_len("nodes_values", values.len(), trees.len())?;
        let missing = attribute::ints(node, "nodes_missing_value_tracks_true")?;
        if !missing.is_empty() {
            column("nodes_missing_value_tracks_true")?;
        }
        let modes = attribute::texts(node, "nodes_modes")?;
        attribute::expect_len("nodes_modes", modes.len(), trees.len())?;
        let modes: Vec<Mode> = modes
            .into_iter()
            .map(Mode::read)
            .collect::<Result<_, _>>()?;
        let mut places = HashMap::with_capacity(trees.len());
        for (place, key) in trees.iter().copied().zip(ids.iter().copied()).enumerate() {
            if places.insert(key, place).is_some() {
                return Err(format!("tree {} has two nodes {}", key.0, key.1));
            }
        }
        let mut children = vec![(0, 0); trees.len()];
        for (place, pair) in children.iter_mut().enumerate() {
            if modes[place] == Mode::Leaf {
                continue;
            }
            let child = |id: i64| {
                let found = places.get(&(trees[place], id)).copied();
                found.ok_or_else(|| {
                    format!(
                        "node {} of tree {} has the child {id}, which is not there",
                        ids[place], trees[place]
                    )
                })
            };
            *pair = (child(yes[place])?, child(no[place])?);
        }
        Ok(Self {
            places,
            trees,
            features,
            values,
            missing,
            modes,
            children,
        })
    }

    /// The root of each tree, in the order of the file. No node has two parents.
    fn roots(&self) -> Result<Vec<usize>, String> {
        let mut is_child = vec![false; self.modes.len()];
        for (place, (yes, no)) in self.children.iter().enumerate() {
            if self.modes[place] == Mode::Leaf {
                continue;
            }
            for child in [*yes, *no] {
                if std::mem::replace(&mut is_child[child], true) {
                    return Err(format!(
                        "a node of tree {} has two parents",
                        self.trees[child]
                    ));
                }
            }
        }
        let roots: Vec<usize> = (0..is_child.len())
            .filter(|place| !is_child[*place])
            .collect();
        let mut seen = HashMap::new();
        for root in &roots {
            if seen.insert(self.trees[*root], root).is_some() {
                return Err(format!("tree {} has two roots", self.trees[*root]));
            }
        }
        if roots.is_empty() {
            return Err("there is no tree, or none has a root".to_owned());
        }
        Ok(roots)
    }
}

/// The weights of each place of the table.
fn leaf_weights(
    node: &NodeProto,
    leaf: &str,
    targets: usize,
    table: &Table<'_>,
) -> Result<Vec<Vec<Weight>>, String> {
    let name = |column: &str| format!("{leaf}_{column}");
    let trees = attribute::ints(node, &name("treeids"))?;
    let ids = attribute::ints(node, &name("nodeids"))?;
    let of = attribute::ints(node, &name("ids"))?;
    let values = attribute::floats(node, &name("weights"))?;
    attribute::expect_len(&name("nodeids"), ids.len(), trees.len())?;
    attribute::expect_len(&name("ids"), of.len(), trees.len())?;
    attribute::expect_len(&name("weights"), values.len(), trees.len())?;
    let mut weights = vec![Vec::new(); table.modes.len()];
    for i in 0..trees.len() {
        let place = table.places.get(&(trees[i], ids[i])).copied();
        let place = place
            .filter(|place| table.modes[*place] == Mode::Leaf)
            .ok_or_else(|| {
                format!(
                    "{} speaks of node {} of tree {}, which is no leaf",
                    name("nodeids"),
                    ids[i],
                    trees[i]
                )
            })?;
        let target = u32::try_from(of[i])
            .ok()
            .filter(|target| (*target as usize) < targets);
        let target = target.ok_or_else(|| {
            format!(
                "{} has {}; expected 0 to {}",
                name("ids"),
                of[i],
                targets - 1
            )
        })?;
        weights[place].push(Weight {
            target,
            weight: values[i],
        });
    }
    Ok(weights)
}
