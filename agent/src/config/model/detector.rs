//! The keys of detectors that need no bundle.

use millrace_inference::{
    BuiltinSettings, CalibrationRule, DecisionRule, Fill, Grid, Input, Method, PCA_VALUES_MAX,
    Threshold, Window,
};

use super::super::complaint::Complaint;
use super::super::section::Section;
use super::super::tree::{Node, Raw};
use super::super::units::parse_duration;

/// Rows of a grid that one value may be held for: bundles have the same bound.
const HOLD_ROWS_MAX: u32 = 10_000;

/// Steps of severity that people can tell apart.
const SEVERITY_STEPS_MAX: usize = 9;

/// What an event's severity counts where nothing is written.
const SEVERITY_DEFAULT: [f64; 3] = [1.0, 1.5, 3.0];

/// Reads the detector of this method over inputs of these roles. `None` where it has a problem, which is reported then.
pub(super) fn read(
    section: &Section<'_>,
    name: &str,
    method: &'static str,
    roles: &[&str],
) -> Option<BuiltinSettings> {
    let window = window(section, method);
    let threshold = threshold(section);
    let decision = decision(section);
    let method = read_method(section, method, roles);
    let (window, method) = (window?, method?);
    let values = window.len * roles.len();
    if matches!(method, Method::Pca { .. }) && values > PCA_VALUES_MAX {
        let complaint = Complaint::whole(format!(
            "{} inputs in {} rows are {values} values; pca takes {PCA_VALUES_MAX}",
            roles.len(),
            window.len
        ));
        section.complain("rows", complaint.hint("use fewer rows, or several models"));
        return None;
    }
    let input = |role: &&str| Input {
        role: (*role).to_owned(),
        unit: String::new(),
        fill: Fill::Hold,
        range: None,
        required: true,
        max_gap: None,
    };
    Some(BuiltinSettings {
        name: name.to_owned(),
        method,
        inputs: roles.iter().map(input).collect(),
        window,
        threshold: threshold?,
        decision: decision?,
    })
}

fn read_method(section: &Section<'_>, method: &'static str, roles: &[&str]) -> Option<Method> {
    let train = || section.integer("train");
    Some(match method {
        "pca" => {
            let (variance, confidence) = (share(section, "variance"), share(section, "confidence"));
            Method::Pca {
                variance: variance?,
                confidence: confidence?,
                train: train()?,
            }
        }
        "ewma" => {
            let (lambda, sigmas) = (share(section, "lambda"), sigmas(section, 3.0));
            Method::Ewma {
                lambda: lambda?,
                sigmas: sigmas?,
                train: train()?,
            }
        }
        "cusum" => {
            let (slack, sigmas) = (above_zero(section, "slack"), sigmas(section, 5.0));
            Method::Cusum {
                slack: slack?,
                sigmas: sigmas?,
                train: train()?,
            }
        }
        "stuck" => Method::Stuck {
            change: limits(section, roles, "a number, 0 or more", Some(0.0), |node| {
                node.as_number().filter(|change| *change >= 0.0)
            })?,
        },
        "rate" => Method::Rate {
            limit: limits(section, roles, "a number above 0", None, |node| {
                node.as_number().filter(|limit| *limit > 0.0)
            })?,
        },
        "range" => Method::Range {
            limits: limits(
                section,
                roles,
                "[smallest, largest]",
                None,
                |node| match numbers(node)?.as_slice() {
                    [smallest, largest] if smallest < largest => Some((*smallest, *largest)),
                    _ => None,
                },
            )?,
        },
        _ => Method::Missing {
            allowed: share(section, "allowed")?,
        },
    })
}

fn sigmas(section: &Section<'_>, default: f64) -> Option<f64> {
    match section.has("sigmas") {
        true => above_zero(section, "sigmas"),
        false => Some(default),
    }
}

/// A number between 0 and 1, none of them included.
fn share(section: &Section<'_>, key: &str) -> Option<f64> {
    fitting(section, key, "between 0 and 1", |number| {
        number > 0.0 && number < 1.0
    })
}

fn above_zero(section: &Section<'_>, key: &str) -> Option<f64> {
    fitting(section, key, "above 0", |number| {
        number > 0.0 && number.is_finite()
    })
}

fn fitting(
    section: &Section<'_>,
    key: &str,
    expected: &str,
    fits: impl Fn(f64) -> bool,
) -> Option<f64> {
    let number = section.number(key)?;
    if !fits(number) {
        section.complain(
            key,
            Complaint::new(format!("a number {expected} is expected")),
        );
        return None;
    }
    Some(number)
}

fn numbers(node: &Node) -> Option<Vec<f64>> {
    match &node.raw {
        Raw::List(items) => items.iter().map(Node::as_number).collect(),
        _ => None,
    }
}

/// One limit for each role, in their order.
fn limits<T: Copy>(
    section: &Section<'_>,
    roles: &[&str],
    expected: &str,
    default: Option<T>,
    take: impl Fn(&Node) -> Option<T>,
) -> Option<Vec<T>> {
    let mut limits = vec![default; roles.len()];
    let mut fits = true;
    match section.node("limits").map(|node| &node.raw) {
        Some(Raw::Table(table)) => {
            for entry in &table.entries {
                let key = format!("limits.{}", entry.key);
                let mut refuse = |complaint| {
                    section.complain_at(&key, &entry.node.place, &entry.node.shown(), complaint);
                    fits = false;
                };
                let place = roles.iter().position(|role| *role == entry.key);
                match (place, take(&entry.node)) {
                    (None, _) => refuse(
                        Complaint::new("no input has this role")
                            .hint(format!("the roles are {}", roles.join(", "))),
                    ),
                    (_, None) => refuse(Complaint::new(format!("{expected} is expected"))),
                    (Some(place), Some(limit)) => limits[place] = Some(limit),
                }
            }
        }
        None => {}
        Some(_) => {
            section.complain(
                "limits",
                Complaint::new("a table of roles and limits is expected"),
            );
            return None;
        }
    }
    let missing = roles.iter().zip(&limits).find(|(_, limit)| limit.is_none());
    if let (Some((role, _)), true) = (missing, fits) {
        let complaint = Complaint::whole(format!("limits has nothing for {role}"));
        let hint = format!("write [model.limits] with a line {role} = {expected}");
        section.complain("limits", complaint.hint(hint));
        return None;
    }
    fits.then(|| limits.into_iter().flatten().collect())
}

fn window(section: &Section<'_>, method: &str) -> Option<Window> {
    let len = match section.has("rows") {
        true => section.integer("rows"),
        false => Some(match method {
            "pca" | "range" => 1,
            "ewma" => 50,
            "cusum" => 100,
            "rate" => 2,
            _ => 60,
        }),
    };
    if matches!(method, "rate" | "stuck") && len == Some(1) {
        let complaint = Complaint::new(format!("{method} compares rows: 2 at least are expected"));
        section.complain("rows", complaint);
        return None;
    }
    let grid = match section.has("grid") {
        false => Some(Grid::Every(std::time::Duration::from_secs(1))),
        true => section.form("grid", |text| {
            if text == "scan" {
                return Ok(Grid::Scan);
            }
            let grid =
                parse_duration(text).filter(|grid| (1..=86_400_000).contains(&grid.as_millis()));
            let expected = "\"scan\", or a duration from 1ms to 1d is expected";
            grid.map(Grid::Every)
                .ok_or_else(|| Complaint::new(expected))
        }),
    };
    let max_gap = section.duration("max_gap");
    if let (Some(Grid::Every(grid)), Some(max_gap)) = (grid, max_gap)
        && (max_gap < grid || max_gap > grid.saturating_mul(HOLD_ROWS_MAX))
    {
        let message =
            format!("at least the grid, and at most {HOLD_ROWS_MAX} times it, is expected");
        section.complain("max_gap", Complaint::new(message));
        return None;
    }
    let stride = section.integer("stride");
    let good = fitting(section, "min_good_share", "above 0, up to 1", |share| {
        share > 0.0 && share <= 1.0
    });
    let lateness = section.duration("lateness");
    Some(Window {
        len: len?,
        stride: stride?,
        grid: grid?,
        max_gap: max_gap?,
        min_good_share: good?,
        lateness: lateness?,
        normalisation: None,
    })
}

fn threshold(section: &Section<'_>) -> Option<Threshold> {
    let learned = |default: CalibrationRule| {
        let q = match section.has("threshold_q") {
            true => share(section, "threshold_q"),
            false => Some(default.q),
        };
        let factor = match section.has("threshold_factor") {
            true => above_zero(section, "threshold_factor"),
            false => Some(default.factor),
        };
        let windows = match section.has("threshold_windows") {
            true => section.integer("threshold_windows"),
            false => Some(default.windows),
        };
        Some(CalibrationRule {
            q: q?,
            factor: factor?,
            windows: windows?,
        })
    };
    Some(match section.choice("threshold")? {
        "quantile" => Threshold::Quantile(learned(CalibrationRule::QUANTILE)?),
        "pot" => Threshold::Pot(learned(CalibrationRule::POT)?),
        _ => Threshold::Fixed(above_zero(section, "threshold_value")?),
    })
}

fn decision(section: &Section<'_>) -> Option<DecisionRule> {
    let on: Option<usize> = section.integer("on");
    let on_of = match section.has("on_of") {
        true => section.integer("on_of"),
        false => on,
    };
    if on_of < on {
        section.complain(
            "on_of",
            Complaint::new("at least as many as `on` are expected"),
        );
    }
    let off_ratio = fitting(section, "off_ratio", "above 0, up to 1", |ratio| {
        ratio > 0.0 && ratio <= 1.0
    });
    let rising = |steps: &Vec<f64>| {
        steps.len() <= SEVERITY_STEPS_MAX
            && steps.first().is_none_or(|first| *first >= 1.0)
            && steps.windows(2).all(|pair| pair[0] < pair[1])
    };
    let severity = match section.node("severity") {
        None => Some(SEVERITY_DEFAULT.to_vec()),
        Some(node) => numbers(node).filter(rising),
    };
    if severity.is_none() {
        let message =
            format!("up to {SEVERITY_STEPS_MAX} ratios, from 1 on and rising, are expected");
        section.complain("severity", Complaint::new(message));
    }
    let (smoothing, off) = (section.integer("smoothing"), section.integer("off"));
    let cooldown = section.duration("cooldown");
    Some(DecisionRule {
        smoothing: smoothing?,
        on: on?,
        on_of: on_of.filter(|on_of| Some(*on_of) >= on)?,
        off: off?,
        off_ratio: off_ratio?,
        cooldown: cooldown?,
        severity: severity?,
    })
}
