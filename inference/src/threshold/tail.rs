//! The largest of many scores.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

use crate::learned::bits;

/// Keeps the largest scores, as many as there is room for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Tail {
    room: usize,
    #[serde(with = "heap")]
    scores: BinaryHeap<Reverse<Score>>,
}

/// A score with a total order.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score(f64);

impl Eq for Score {}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Tail {
    fn eq(&self, other: &Self) -> bool {
        self.room == other.room && self.largest() == other.largest()
    }
}

impl Tail {
    pub(super) fn new(room: usize) -> Self {
        Self {
            room,
            scores: BinaryHeap::new(),
        }
    }

    pub(super) fn push(&mut self, score: f64) {
        self.scores.push(Reverse(Score(score)));
        if self.scores.len() > self.room {
            self.scores.pop();
        }
    }

    pub(super) fn clear(&mut self) {
        self.scores = BinaryHeap::new();
    }

    /// Whether a tail that was kept is one of the same kind, after so many scores.
    pub(super) fn fits(&self, same_kind: &Self, scores: usize) -> bool {
        self.room == same_kind.room
            && self.scores.len() == self.room.min(scores)
            && self.scores.iter().all(|score| score.0.0.is_finite())
    }

    /// The scores that were kept, largest first.
    pub(super) fn largest(&self) -> Vec<f64> {
        let mut scores: Vec<f64> = self.scores.iter().map(|score| score.0.0).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores
    }

    /// The quantile of all `count` scores, between two of them on a straight line: what numpy calls `linear`. There
    /// must have been room for it.
    pub(super) fn quantile(&self, q: f64, count: usize) -> f64 {
        let largest = self.largest();
        let place = place(q, count);
        let from_top = |rank: usize| {
            let index = count.saturating_sub(1).saturating_sub(rank);
            largest
                .get(index)
                .or(largest.last())
                .copied()
                .unwrap_or(0.0)
        };
        let (below, above) = (
            from_top(place.floor() as usize),
            from_top(place.ceil() as usize),
        );
        below + (above - below) * place.fract()
    }
}

/// Where the quantile lies among so many sorted numbers, from 0.
pub(super) fn place(q: f64, count: usize) -> f64 {
    q * count.saturating_sub(1) as f64
}

mod heap {
    use super::{BinaryHeap, Reverse, Score, bits};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        scores: &BinaryHeap<Reverse<Score>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let scores: Vec<f64> = scores.iter().map(|score| score.0.0).collect();
        bits::list::serialize(&scores, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BinaryHeap<Reverse<Score>>, D::Error> {
        let scores: Vec<f64> = bits::list::deserialize(deserializer)?;
        Ok(scores
            .into_iter()
            .map(|score| Reverse(Score(score)))
            .collect())
    }
}
