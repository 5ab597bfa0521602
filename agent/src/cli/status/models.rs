//! The models in `status`: a table, and below it what is going on with versions.

use crate::cli::show;
use crate::cli::table::Table;
use crate::report::{ModelStatus, ShadowStatus};

pub(super) fn table(models: &[ModelStatus]) -> Table {
    let mut table = Table::new([
        "NAME", "VERSION", "STATE", ">SCORE", ">RATIO", ">WINDOWS", ">SHED", ">CPU", "ANOMALY",
    ]);
    for model in models {
        table.row([
            model.name.clone(),
            model.version.clone().unwrap_or_else(|| "-".into()),
            model.state.clone(),
            show::decimal(model.score),
            show::decimal(model.ratio),
            show::count(model.windows_total),
            show::count(model.windows_shed_total),
            model.window_ms.map_or_else(|| "-".into(), short_time),
            if model.anomaly { "YES" } else { "no" }.into(),
        ]);
    }
    table
}

/// `41 µs`, `2.5 ms`.
fn short_time(ms: f64) -> String {
    match ms < 1.0 {
        true => format!("{:.0} µs", ms * 1e3),
        false => show::millis(ms),
    }
}

/// What else is to be said of a model.
pub(super) fn lines(model: &ModelStatus) -> String {
    let mut text = calibration_line(model);
    let mut say = |sentence: String| {
        text.push_str(&show::bullet("  ", &format!("{}: {sentence}", model.name)));
    };
    if let Some(trial) = &model.trial {
        let back = match &trial.previous {
            Some(previous) => format!("; {previous} goes on where it fails"),
            None => String::new(),
        };
        let left = show::seconds(trial.left_s);
        say(format!("on trial for {left} more{back}"));
    }
    if let Some(next) = &model.next {
        say(format!(
            "{} takes over as soon as its first window is full",
            next.version
        ));
    }
    if let Some(shadow) = &model.shadow {
        say(shadow_line(shadow));
    }
    if model.samples_shed_total > 0 {
        let shed = show::count(model.samples_shed_total);
        say(format!("{shed} samples came faster than it takes them"));
    }
    if let Some(why) = &model.at_normal_priority {
        say(format!(
            "runs at normal priority, since the system permits no other: {why}"
        ));
    }
    text
}

fn shadow_line(shadow: &ShadowStatus) -> String {
    let version = &shadow.version;
    let compared = show::count(shadow.windows_compared);
    let difference = match (shadow.ratio_difference_mean, shadow.ratio_difference_max) {
        (Some(mean), Some(max)) => {
            let (mean, max) = (show::decimal(Some(mean)), show::decimal(Some(max)));
            format!("; ratio differs by {mean} in the mean, {max} at most")
        }
        _ => String::new(),
    };
    let alone = match (shadow.alarms_only_shadow, shadow.alarms_only_live) {
        (0, 0) => String::new(),
        (shadow, live) => format!(
            "; {} windows only it finds odd, {} only the version that counts",
            show::count(shadow),
            show::count(live)
        ),
    };
    let events = match (shadow.events_shadow, shadow.events_live) {
        (0, 0) => String::new(),
        (shadow, live) => format!("; {shadow} events against {live}"),
    };
    let trouble = match (&shadow.error, shadow.failures_total) {
        (Some(error), _) => format!("; {error}"),
        (None, 0) => String::new(),
        (None, failures) => format!("; {failures} windows failed"),
    };
    format!("shadow {version}, {compared} windows compared{difference}{alone}{events}{trouble}")
}

/// How far a model is that learns; nothing where it does not, or no more.
fn calibration_line(model: &ModelStatus) -> String {
    let Some(calibration) = &model.calibration else {
        return String::new();
    };
    let (Some(windows), Some(needed)) = (calibration.windows, calibration.needed) else {
        return String::new();
    };
    let what = match calibration.state.as_str() {
        "training" => "learns what is normal: no scores yet",
        _ => "learns its threshold: no events yet",
    };
    let (windows, needed) = (show::count(windows as u64), show::count(needed as u64));
    let line = format!("{} {what}, {windows} of {needed} windows", model.name);
    show::bullet("  calibration: ", &line)
}
