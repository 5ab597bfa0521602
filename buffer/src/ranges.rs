//! Sets of numbers, kept as ranges: chunk numbers that are settled, sample numbers that are acked.

use serde::{Deserialize, Serialize};

/// A set of numbers as sorted, disjoint ranges that never touch; both ends included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// The first range that ends at or after `number`.
    fn at(&self, number: u64) -> usize {
        // What is asked for is nearly always at the upper end.
        match self.0.last() {
            Some(&(first, last)) if number >= first => self.0.len() - usize::from(number <= last),
            _ => self.0.partition_point(|&(_, last)| last < number),
        }
    }

    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let from = self.at(first.saturating_sub(1));
        let mut to = from;
        let (mut low, mut high) = (first, last);
        while let Some(&(a, b)) = self.0.get(to) {
            if a > last.saturating_add(1) {
                break;
            }
            low = low.min(a);
            high = high.max(b);
            to += 1;
        }
        match to - from {
            0 => self.0.insert(from, (low, high)),
            _ => {
                self.0[from] = (low, high);
                self.0.drain(from + 1..to);
            }
        }
    }

    pub(crate) fn remove(&mut self, first: u64, last: u64) {
        let from = self.at(first);
        let mut kept = Vec::new();
        let mut to = from;
        while let Some(&(a, b)) = self.0.get(to) {
            if a > last {
                break;
            }
            if a < first {
                kept.push((a, first - 1));
            }
            if b > last {
                kept.push((last + 1, b));
            }
            to += 1;
        }
        if to > from {
            self.0.splice(from..to, kept);
        }
    }

    /// How many numbers of `first..=last` are in the set.
    pub(crate) fn overlap(&self, first: u64, last: u64) -> u64 {
        self.within(first, last).map(|(a, b)| b - a + 1).sum()
    }

    /// The parts of `first..=last` that are in the set.
    pub(crate) fn within(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
        self.0[self.at(first)..]
            .iter()
            .take_while(move |&&(a, _)| a <= last)
            .map(move |&(a, b)| (a.max(first), b.min(last)))
    }

    /// Whether all of `first..=last` is in the set.
    pub(crate) fn covers(&self, first: u64, last: u64) -> bool {
        self.0
            .get(self.at(first))
            .is_some_and(|&(a, b)| a <= first && b >= last)
    }

    /// The first part of `first..=last` that is not in the set.
    pub(crate) fn first_free(&self, mut first: u64, last: u64) -> Option<(u64, u64)> {
        if first > last {
            return None;
        }
        let mut at = self.at(first);
        if let Some(&(a, b)) = self.0.get(at)
            && a <= first
        {
            if b >= last {
                return None;
            }
            first = b + 1;
            at += 1;
        }
        let end = self.0.get(at).map_or(last, |&(a, _)| last.min(a - 1));
        Some((first, end))
    }

    /// The parts of `first..=last` that are not in the set.
    pub(crate) fn free(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        let mut from = first;
        while let Some((a, b)) = self.first_free(from, last) {
            out.push((a, b));
            if b == last {
                break;
            }
            from = b + 1;
        }
        out
    }

    pub(crate) fn union(&mut self, other: &Ranges) {
        for (first, last) in other.iter() {
            self.insert(first, last);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn count(&self) -> u64 {
        self.iter().map(|(a, b)| (b - a).saturating_add(1)).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy with the `max` largest ranges.
    pub(crate) fn largest(&self, max: usize) -> Ranges {
        if self.0.len() <= max {
            return self.clone();
        }
        let mut by_size = self.0.clone();
        by_size.sort_unstable_by_key(|&(a, b)| std::cmp::Reverse(b - a));
        by_size.truncate(max);
        by_size.sort_unstable();
        Ranges(by_size)
    }

    /// The set as it was read from a file, put in order: a file may hold anything.
    pub(crate) fn repaired(self) -> Ranges {
        let mut out = Ranges::default();
        for (first, last) in self.0 {
            out.insert(first, last);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..9), 0..60), a in 0u64..70, n in 0u64..20) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for (insert, first, more) in steps {
                let last = first + more;
                if insert {
                    ranges.insert(first, last);
                    model.extend(first..=last);
                } else {
                    ranges.remove(first, last);
                    model.retain(|x| *x < first || *x > last);
                }
            }
            let listed: BTreeSet<u64> = ranges.iter().flat_map(|(a, b)| a..=b).collect();
            prop_assert_eq!(&listed, &model);
            prop_assert!(ranges.0.windows(2).all(|w| w[0].1 + 1 < w[1].0));
            let b = a + n;
            prop_assert_eq!(ranges.overlap(a, b), model.range(a..=b).count() as u64);
            prop_assert_eq!(ranges.covers(a, b), (a..=b).all(|x| model.contains(&x)));
            let free: BTreeSet<u64> = ranges.free(a, b).into_iter().flat_map(|(a, b)| a..=b).collect();
            prop_assert_eq!(free, (a..=b).filter(|x| !model.contains(x)).collect::<BTreeSet<_>>());
        }
    }

    #[test]
    fn the_smallest_are_forgotten() {
        let mut ranges = Ranges::default();
        ranges.insert(1, 100);
        ranges.insert(200, 200);
        ranges.insert(300, u64::MAX);
        assert_eq!(ranges.largest(2).0, [(1, 100), (300, u64::MAX)]);
    }
}
