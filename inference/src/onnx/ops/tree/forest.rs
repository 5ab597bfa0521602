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

    /// As `TreeEnsemble` has it.
    fn of_number(number: u8) -> Result<Self, String> {
        Ok(match number {
            0 => Self::LessOrEqual,
            1 => Self::Less,
            2 => Self::GreaterOrEqual,
            3 => Self::Greater,
            4 => Self::Equal,
            5 => Self::NotEqual,
            other => {
                return Err(format!(
                    "nodes_modes has {other}; expected 0 (BRANCH_LEQ) to 5 (BRANCH_NEQ); convert with target_opset={{'': 17, 'ai.onnx.ml': 3}}"
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
        let roots = table.roots()?;
        let forest = Self::of(&table.rows, &weights, &roots)?;
        // With one parent for each node and all trees laid, what is missing hangs on itself.
        let count = table.rows.modes.len();
        if forest.nodes.len() != count {
            return Err(circle(count - forest.nodes.len(), count));
        }
        Ok(forest)
    }

    /// Reads the nodes of a `TreeEnsemble`, which has its leaves apart.
    pub(super) fn read_newer(node: &NodeProto, targets: usize) -> Result<Self, String> {
        let features = attribute::ints(node, "nodes_featureids")?;
        let count = features.len();
        let column = |name| {
            let column = attribute::ints(node, name)?;
            attribute::expect_len(name, column.len(), count).map(|()| column)
        };
        let of_leaves = attribute::ints(node, "leaf_targetids")?;
        let leaf_weights = attribute::tensor_floats(node, "leaf_weights")?;
        attribute::expect_len("leaf_weights", leaf_weights.len(), of_leaves.len())?;
        let values = attribute::tensor_floats(node, "nodes_splits")?;
        attribute::expect_len("nodes_splits", values.len(), count)?;
        let modes = attribute::tensor_bytes(node, "nodes_modes")?;
        attribute::expect_len("nodes_modes", modes.len(), count)?;
        let missing = attribute::ints(node, "nodes_missing_value_tracks_true")?;
        if !missing.is_empty() {
            column("nodes_missing_value_tracks_true")?;
        }
        let mut modes: Vec<Mode> = modes
            .into_iter()
            .map(Mode::of_number)
            .collect::<Result<_, _>>()?;
        modes.extend(std::iter::repeat_n(Mode::Leaf, of_leaves.len()));
        let roots: Vec<usize> = attribute::ints(node, "tree_roots")?
            .iter()
            .map(|root| child("tree_roots", *root, 0, count))
            .collect::<Result<_, _>>()?;
        let side = |name, is_leaf| -> Result<Vec<usize>, String> {
            let (ids, is_leaf) = (column(name)?, column(is_leaf)?);
            let pairs = ids.iter().zip(is_leaf);
            pairs
                .map(|(id, is_leaf)| match is_leaf {
                    0 => child(name, *id, 0, count),
                    _ => child(name, *id, count, of_leaves.len()),
                })
                .collect()
        };
        let yes = side("nodes_truenodeids", "nodes_trueleafs")?;
        let no = side("nodes_falsenodeids", "nodes_falseleafs")?;
        let mut is_taken = vec![false; count];
        // A leaf may serve several nodes.
        for place in roots
            .iter()
            .chain(&yes)
            .chain(&no)
            .filter(|it| **it < count)
        {
            if std::mem::replace(&mut is_taken[*place], true) {
                return Err(format!("node {place} has two parents, or is two roots"));
            }
        }
        let mut weights = vec![Vec::new(); count];
        for (target, weight) in of_leaves.iter().zip(leaf_weights) {
            let target = target_of("leaf_targetids", *target, targets)?;
            weights.push(vec![Weight { target, weight }]);
        }
        let rows = Rows {
            features,
            values: &values,
            missing,
            modes,
            children: yes.into_iter().zip(no).collect(),
        };
        let forest = Self::of(&rows, &weights, &roots)?;
        let laid = forest.nodes.iter().filter(|it| it.mode != Mode::Leaf);
        match count - laid.count() {
            0 if count > 0 => Ok(forest),
            0 => Err("there is no tree".to_owned()),
            missing => Err(circle(missing, count)),
        }
    }

    /// The trees with these roots; no node is reached from two places.
    fn of(rows: &Rows<'_>, weights: &[Vec<Weight>], roots: &[usize]) -> Result<Self, String> {
        let mut forest = Self {
            nodes: Vec::with_capacity(rows.modes.len()),
            roots: Vec::new(),
            weights: Vec::new(),
            features: 0,
        };
        for root in roots {
            let place = forest.lay(rows, weights, *root)?;
            forest.roots.push(place);
        }
        Ok(forest)
    }

    /// Lays one tree, each node before its children; gives the place of the root.
    fn lay(
        &mut self,
        rows: &Rows<'_>,
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
                value: rows.values.get(from).copied().unwrap_or_default(),
                feature: 0,
                yes: 0,
                no: 0,
                mode: rows.modes[from],
                missing_is_yes: rows.missing.get(from) == Some(&1),
            };
            if node.mode == Mode::Leaf {
                node.yes = place(self.weights.len())?;
                self.weights.extend(&weights[from]);
                node.no = place(self.weights.len())?;
            } else {
                let feature = attribute::index("nodes_featureids", rows.features[from])?;
                self.features = self.features.max(feature.saturating_add(1));
                node.feature = place(feature)?;
                let (yes, no) = rows.children[from];
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

fn circle(missing: usize, count: usize) -> String {
    format!("{missing} of {count} nodes are reached from no root: the trees hold a circle")
}

/// The place of what the file names by its number, after `before` others.
fn child(name: &str, id: i64, before: usize, count: usize) -> Result<usize, String> {
    let place = usize::try_from(id).ok().filter(|id| *id < count);
    let place = place.ok_or_else(|| format!("{name} has {id}; there are {count}"))?;
    Ok(before + place)
}

fn target_of(name: &str, target: i64, targets: usize) -> Result<u32, String> {
    let place = u32::try_from(target).ok();
    let place = place.filter(|place| (*place as usize) < targets);
    place.ok_or_else(|| format!("{name} has {target}; expected 0 to {}", targets - 1))
}

/// What is known of each node and leaf; leaves that stand apart stand behind, and have modes only.
struct Rows<'a> {
    features: &'a [i64],
    values: &'a [f32],
    missing: &'a [i64],
    modes: Vec<Mode>,
    /// Which stand for yes and no; of a leaf, nothing.
    children: Vec<(usize, usize)>,
}

/// The columns of the file, checked one by one.
struct Table<'a> {
    /// Where each tree's nodes stand, by tree and number of the node.
    places: HashMap<(i64, i64), usize>,
    trees: &'a [i64],
    rows: Rows<'a>,
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
            rows: Rows {
                features,
                values,
                missing,
                modes,
                children,
            },
        })
    }

    /// The root of each tree, in the order of the file. No node has two parents.
    fn roots(&self) -> Result<Vec<usize>, String> {
        let mut is_child = vec![false; self.rows.modes.len()];
        for (place, (yes, no)) in self.rows.children.iter().enumerate() {
            if self.rows.modes[place] == Mode::Leaf {
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
    let mut weights = vec![Vec::new(); table.rows.modes.len()];
    for i in 0..trees.len() {
        let place = table.places.get(&(trees[i], ids[i])).copied();
        let place = place
            .filter(|place| table.rows.modes[*place] == Mode::Leaf)
            .ok_or_else(|| {
                format!(
                    "{} speaks of node {} of tree {}, which is no leaf",
                    name("nodeids"),
                    ids[i],
                    trees[i]
                )
            })?;
        let target = target_of(&name("ids"), of[i], targets)?;
        weights[place].push(Weight {
            target,
            weight: values[i],
        });
    }
    Ok(weights)
}
