//! Whether the wall clock can be trusted: the clock that the agent stamps with.
//!
//! A machine without a battery-backed clock does not start in 1970 under systemd: it starts at the time of its last shutdown,
//! which looks right and is not. So where systemd-timesyncd runs, the wall clock counts as set once timesyncd says so
//! (`/run/systemd/timesync/synchronized`), where a real-time clock holds a time, or once somebody has set it while the agent
//! ran: a timer that is cancelled by that tells at once. Without timesyncd another program looks after the clock, and it
//! counts as set unless it is older than this program (`millrace_tags::SystemClock`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millrace_tags::{Clock, Moment, SystemClock, Timebase};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::sync::oneshot;

/// A real-time clock that was never set, or whose battery is empty, is before 2025-01-01: Millrace is younger than that.
const RTC_SET_AFTER_S: u64 = 1_735_689_600;

/// How often is looked for signs.
const LOOK: Duration = Duration::from_secs(5);

/// Where the system tells of its clock.
#[derive(Debug)]
struct Signs {
    timesync: PathBuf,
    rtc: PathBuf,
}

impl Signs {
    fn of_system() -> Self {
        Self {
            timesync: "/run/systemd/timesync".into(),
            rtc: "/sys/class/rtc".into(),
        }
    }

    /// Whether the clock can be trusted, as far as the system tells.
    fn are_good(&self) -> bool {
        !self.timesync.exists()
            || self.timesync.join("synchronized").exists()
            || self.has_real_time_clock()
    }

    fn has_real_time_clock(&self) -> bool {
        let clocks = std::fs::read_dir(&self.rtc).into_iter().flatten().flatten();
        clocks.into_iter().any(|clock| {
            let text = std::fs::read_to_string(clock.path().join("since_epoch"));
            let seconds = text.ok().and_then(|text| text.trim().parse::<u64>().ok());
            seconds.is_some_and(|seconds| seconds >= RTC_SET_AFTER_S)
        })
    }
}

/// The machine's clock, whose wall time is not told before it can be trusted.
pub(crate) struct WatchedClock {
    clock: SystemClock,
    signs: Signs,
    trusted: AtomicBool,
}

impl WatchedClock {
    /// The clock of the running boot.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::with(Signs::of_system()))
    }

    fn with(signs: Signs) -> Self {
        Self {
            clock: SystemClock::new(),
            trusted: AtomicBool::new(signs.are_good()),
            signs,
        }
    }

    /// Somebody has set the clock, or says that it is right.
    pub(crate) fn trust(&self, why: &str) {
        if !self.trusted.swap(true, Ordering::Relaxed) {
            tracing::info!(why, "the wall clock is trusted from now on");
        }
    }

    /// Looks after the clock until it can be trusted.
    pub(crate) async fn watch(self: Arc<Self>) {
        if self.trusted.load(Ordering::Relaxed) {
            return;
        }
        let set = when_set().inspect_err(|error| {
            tracing::warn!(%error, "cannot hear when the clock is set");
        });
        let mut set = std::pin::pin!(async {
            let heard = match set {
                Ok(set) => set.await.is_ok(),
                Err(_) => false,
            };
            if !heard {
                std::future::pending::<()>().await;
            }
        });
        let mut looks = tokio::time::interval(LOOK);
        while !self.trusted.load(Ordering::Relaxed) {
            tokio::select! {
                () = &mut set => self.trust("it was set while the agent ran"),
                _ = looks.tick() => {
                    if self.signs.are_good() {
                        self.trust("the system says that it is synchronized");
                    }
                }
            }
        }
    }
}

impl Clock for WatchedClock {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn timebase(&self) -> Timebase {
        let timebase = self.clock.timebase();
        match self.trusted.load(Ordering::Relaxed) {
            true => timebase,
            false => Timebase {
                offset_ns: None,
                ..timebase
            },
        }
    }
}

/// Tells when the wall clock is set: by a timer that never goes off and is cancelled then, and a thread that waits for it.
///
/// # Errors
/// Where the kernel takes no such timer.
fn when_set() -> std::io::Result<oneshot::Receiver<()>> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
    // The end of time, as far as the machine's own can say.
    let never = Expiration::OneShot(TimeSpec::new(nix::libc::time_t::MAX, 0));
    let told = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(never, told)?;
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name("clock".to_owned())
        .spawn(move || {
            if timer.wait().is_ok() {
                // Nobody may care any more.
                let _ = tell.send(());
            }
        })?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(dir: &std::path::Path) -> Signs {
        Signs {
            timesync: dir.join("timesync"),
            rtc: dir.join("rtc"),
        }
    }

    #[test]
    fn the_system_says_whether_its_clock_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let good = || signs(dir.path()).are_good();
        assert!(good(), "without timesyncd another program looks after it");
        std::fs::create_dir(dir.path().join("timesync")).unwrap();
        assert!(!good());
        let rtc = dir.path().join("rtc/rtc0");
        std::fs::create_dir_all(&rtc).unwrap();
        assert!(!good());
        std::fs::write(rtc.join("since_epoch"), "1400\n").unwrap();
        assert!(!good(), "its battery is empty");
        std::fs::write(rtc.join("since_epoch"), "1790000000\n").unwrap();
        assert!(good());
        std::fs::remove_dir_all(&rtc).unwrap();
        assert!(!good());
        std::fs::write(dir.path().join("timesync/synchronized"), "").unwrap();
        assert!(good());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wall_clock_is_told_once_it_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("timesync")).unwrap();
        let clock = Arc::new(WatchedClock::with(signs(dir.path())));
        let before = clock.timebase();
        assert_eq!(before.offset_ns, None);
        let watch = tokio::spawn(clock.clone().watch());
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(clock.timebase(), before);
        std::fs::write(dir.path().join("timesync/synchronized"), "").unwrap();
        watch.await.unwrap();
        let after = clock.timebase();
        assert!(after.offset_ns.is_some());
        assert_eq!(after.boot, before.boot);
    }

    /// Nothing sets the clock here: the kernel takes such a timer, and it stays silent.
    #[tokio::test]
    async fn the_kernel_takes_a_timer_that_waits_for_ever() {
        let set = when_set().unwrap();
        let heard = tokio::time::timeout(Duration::from_millis(50), set).await;
        assert!(heard.is_err());
    }
}
