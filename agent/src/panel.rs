//! What a person sees who stands before the box: an LED, and a line above the login prompt of each console.
//!
//! The LED is on where all is well, blinks slowly while the gateway waits (for its core, a broker, the first claim), and
//! fast where somebody has to do something: a claim or a configuration that cannot be used, a core that refuses. The line is
//! a file for agetty, `issue` in the directory that systemd made for the service; the package links it into `/run/issue.d`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::durable;
use crate::report::Status;
use crate::supervisor::Current;

/// How often the gateway is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Half of a blink.
const SLOW: Duration = Duration::from_secs(1);
const FAST: Duration = Duration::from_millis(200);

/// Longest line above a login prompt.
const LINE_CHARS_MAX: usize = 300;

/// What the LED does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Light {
    On,
    Slow,
    Fast,
}

/// Shows how the gateway is until the guard is dropped.
pub(crate) fn show(current: Arc<Current>) -> DropGuard {
    let ended = CancellationToken::new();
    let mut panel = Panel::new(issue_file());
    let shown = async move {
        loop {
            let gateway = current.get();
            panel.lead_to(gateway.config.gateway.status_led.as_deref());
            if panel.is_dark() {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            if panel.looked.is_none_or(|at| at.elapsed() >= LOOK) {
                panel.look(&gateway.status());
            }
            drop(gateway);
            tokio::time::sleep(panel.blink()).await;
        }
    };
    tokio::spawn(ended.clone().run_until_cancelled_owned(shown));
    ended.drop_guard()
}

/// Where agetty finds the line; nowhere unless systemd runs the agent.
fn issue_file() -> Option<PathBuf> {
    let directories = std::env::var("RUNTIME_DIRECTORY").ok()?;
    Some(Path::new(directories.split(':').next()?).join("issue"))
}

struct Panel {
    led: Option<Led>,
    issue: Option<PathBuf>,
    light: Light,
    line: String,
    looked: Option<Instant>,
}

impl Panel {
    fn new(issue: Option<PathBuf>) -> Self {
        Self {
            led: None,
            issue,
            light: Light::Slow,
            line: String::new(),
            looked: None,
        }
    }

    fn is_dark(&self) -> bool {
        self.led.is_none() && self.issue.is_none()
    }

    fn lead_to(&mut self, led: Option<&Path>) {
        if self.led.as_ref().map(|led| led.directory.as_path()) != led {
            self.led = led.map(Led::new);
        }
    }

    /// Takes up how the gateway is; the line is written where it is another.
    fn look(&mut self, status: &Status) {
        self.looked = Some(Instant::now());
        let (light, line) = seen(status);
        self.light = light;
        if let Some(issue) = self.issue.as_ref().filter(|_| line != self.line) {
            // Root's agetty reads it, and the service's group.
            if let Err(error) = durable::write(issue, line.as_bytes(), 0o640) {
                tracing::warn!(path = %issue.display(), %error, "cannot say on the consoles how the gateway is");
                self.issue = None;
            }
            self.line = line;
        }
    }

    /// Does the next part of the light; gives how long it lasts.
    fn blink(&mut self) -> Duration {
        let Some(led) = &mut self.led else {
            return LOOK;
        };
        let (lit, lasts) = match self.light {
            Light::On => (true, LOOK),
            Light::Slow => (!led.lit, SLOW),
            Light::Fast => (!led.lit, FAST),
        };
        led.set(lit);
        lasts
    }
}

/// Light and line of a status.
fn seen(status: &Status) -> (Light, String) {
    let first = status.bootstrap.as_ref();
    let stuck = status.config.source != "configured"
        || first.is_some_and(|first| first.state == "denied" || first.claim.is_some());
    let connected = |uplink: &crate::report::UplinkStatus| uplink.state == "connected";
    let enrolled = first.is_none_or(|first| first.state == "ready");
    let delivers = !status.uplinks.is_empty() && status.uplinks.iter().all(connected);
    let light = match (stuck, enrolled && delivers) {
        (true, _) => Light::Fast,
        (false, true) => Light::On,
        (false, false) => Light::Slow,
    };
    let said = match (status.problems.first(), status.uplinks.is_empty()) {
        (Some(problem), _) => problem.clone(),
        (None, true) => "waits for a configuration or a claim".to_owned(),
        (None, false) => "all is well".to_owned(),
    };
    (light, line(&format!("Millrace {}: {said}", status.gateway)))
}

/// One line that a terminal shows as it is: agetty puts things in the place of what follows a backslash.
fn line(text: &str) -> String {
    let plain = |c: char| if c.is_control() || c == '\\' { ' ' } else { c };
    let line: String = text.chars().take(LINE_CHARS_MAX).map(plain).collect();
    format!("{line}\n")
}

/// An LED of the kernel: a directory such as `/sys/class/leds/ACT`.
struct Led {
    directory: PathBuf,
    lit: bool,
    /// What is written to light it.
    full: String,
    /// The last write failed, which was said.
    failed: bool,
}

impl Led {
    /// Takes it from whatever the kernel shows by it.
    fn new(directory: &Path) -> Self {
        let full = std::fs::read_to_string(directory.join("max_brightness"));
        let mut led = Self {
            directory: directory.to_owned(),
            lit: false,
            full: full.map_or("1".to_owned(), |full| full.trim().to_owned()),
            failed: false,
        };
        led.write("trigger", "none");
        led.set(false);
        led
    }

    fn set(&mut self, lit: bool) {
        self.lit = lit;
        let full = self.full.clone();
        self.write("brightness", if lit { &full } else { "0" });
    }

    fn write(&mut self, name: &str, text: &str) {
        let path = self.directory.join(name);
        // Such files are there or not; none is made.
        let file = std::fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path);
        let written =
            file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
        match written {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(path = %path.display(), %error, "cannot set the status LED; may the service write there?");
            }
            Err(_) => {}
        }
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{BootstrapStatus, ConfigStatus, UplinkStatus};

    fn status(uplink: &str, bootstrap: Option<&str>) -> Status {
        Status {
            gateway: "gw-1".to_owned(),
            config: ConfigStatus {
                source: "configured".to_owned(),
                ..ConfigStatus::default()
            },
            uplinks: vec![UplinkStatus {
                state: uplink.to_owned(),
                ..UplinkStatus::default()
            }],
            bootstrap: bootstrap.map(|state| BootstrapStatus {
                state: state.to_owned(),
                ..BootstrapStatus::default()
            }),
            ..Status::default()
        }
    }

    #[test]
    fn the_light_says_who_has_to_do_something() {
        let light = |status: &Status| seen(status).0;
        assert_eq!(light(&status("connected", None)), Light::On);
        assert_eq!(light(&status("connected", Some("ready"))), Light::On);
        assert_eq!(light(&status("down", Some("ready"))), Light::Slow);
        assert_eq!(light(&status("connected", Some("trial"))), Light::Slow);
        assert_eq!(light(&status("connected", Some("transient"))), Light::Slow);
        assert_eq!(light(&status("connected", Some("denied"))), Light::Fast);
        let mut bad = status("connected", None);
        bad.config.source = "last-good".to_owned();
        assert_eq!(light(&bad), Light::Fast);
        let mut bad = status("connected", Some("ready"));
        bad.bootstrap.as_mut().unwrap().claim = Some("cut off".to_owned());
        assert_eq!(light(&bad), Light::Fast);
        let mut fresh = status("connected", None);
        fresh.uplinks.clear();
        assert_eq!(light(&fresh), Light::Slow);
        assert!(
            seen(&fresh)
                .1
                .contains("waits for a configuration or a claim")
        );
    }

    #[test]
    fn the_line_is_one_and_has_nothing_that_a_terminal_obeys() {
        let mut told = status("down", None);
        told.problems = vec!["refused: \\l\x1b[2J\nroot login:".to_owned()];
        let line = seen(&told).1;
        assert_eq!(line, "Millrace gw-1: refused:  l [2J root login:\n");
        told.problems = vec!["x".repeat(5000)];
        assert_eq!(seen(&told).1.len(), LINE_CHARS_MAX + 1);
    }

    #[test]
    fn an_led_blinks_and_goes_out_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let led = dir.path().join("ACT");
        std::fs::create_dir(&led).unwrap();
        for (name, text) in [
            ("trigger", "[mmc0]"),
            ("brightness", "7"),
            ("max_brightness", "255\n"),
        ] {
            std::fs::write(led.join(name), text).unwrap();
        }
        let now = || std::fs::read_to_string(led.join("brightness")).unwrap();
        let mut panel = Panel::new(None);
        assert!(panel.is_dark());
        panel.lead_to(Some(&led));
        assert_eq!(
            (
                now().as_str(),
                std::fs::read_to_string(led.join("trigger"))
                    .unwrap()
                    .as_str()
            ),
            ("0", "none")
        );
        panel.look(&status("down", None));
        let mut lit = Vec::new();
        for _ in 0..3 {
            assert_eq!(panel.blink(), SLOW);
            lit.push(now());
        }
        assert_eq!(lit, ["255", "0", "255"]);
        panel.look(&status("down", Some("denied")));
        assert_eq!((panel.blink(), now().as_str()), (FAST, "0"));
        panel.look(&status("connected", None));
        assert_eq!((panel.blink(), now().as_str()), (LOOK, "255"));
        panel.lead_to(None);
        assert_eq!(now(), "0");
        // Not there: said once, and nothing else happens.
        panel.lead_to(Some(&dir.path().join("none")));
        assert_eq!(panel.blink(), LOOK);
        assert!(!dir.path().join("none").exists());
    }
}
