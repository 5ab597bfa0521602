//! Which of two versions is the newer one: by numbers, as `1.10.0` is above `1.9.2`; `1.0.0-rc.1` is below `1.0.0`.

use std::cmp::Ordering;

/// Compares versions. What stands after `+` does not count.
pub(crate) fn order(left: &str, right: &str) -> Ordering {
    let ((left, left_pre), (right, right_pre)) = (parts(left), parts(right));
    let long = left.len().max(right.len());
    let number = |parts: &[&str], at: usize| parts.get(at).copied().unwrap_or("0").to_owned();
    for at in 0..long {
        let order = part_order(&number(&left, at), &number(&right, at));
        if order != Ordering::Equal {
            return order;
        }
    }
    match (left_pre, right_pre) {
        (None, None) => Ordering::Equal,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(left), Some(right)) => pre_order(&left, &right),
    }
}

/// The numbers, and what stands after the first `-`.
fn parts(version: &str) -> (Vec<&str>, Option<Vec<&str>>) {
    let version = version.split('+').next().unwrap_or_default();
    let (numbers, pre) = match version.split_once('-') {
        Some((numbers, pre)) => (numbers, Some(pre.split('.').collect())),
        None => (version, None),
    };
    (numbers.split('.').collect(), pre)
}

fn pre_order(left: &[&str], right: &[&str]) -> Ordering {
    for (left, right) in left.iter().zip(right) {
        let order = part_order(left, right);
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len())
}

/// Numbers by value and below words, words by their letters.
fn part_order(left: &str, right: &str) -> Ordering {
    match (left.parse::<u64>(), right.parse::<u64>()) {
        (Ok(left), Ok(right)) => left.cmp(&right),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => left.cmp(right),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_and_candidates_come_before() {
        let rising = [
            "0.9",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0",
            "1.9.2",
            "1.10",
            "2",
            "2026.11.21",
        ];
        for (at, left) in rising.iter().enumerate() {
            for (other, right) in rising.iter().enumerate() {
                assert_eq!(order(left, right), at.cmp(&other), "{left} {right}");
            }
        }
        assert_eq!(order("1.0", "1.0.0+build.7"), Ordering::Equal);
    }
}
