//! Threads that stand back, and what a thread has used of the processor.

use std::time::Duration;

use nix::libc;
use nix::time::{ClockId, clock_gettime};

/// A tenth of what a thread at normal priority gets where both want the same core. Less would starve models on a
/// machine that others keep busy.
const NICE: libc::c_int = 10;

/// For threads that nobody waits for any more.
const NICE_LAST: libc::c_int = 19;

/// Puts the calling thread behind those at normal priority.
///
/// # Errors
/// Where the system does not permit it; the thread runs at normal priority then.
pub(crate) fn stand_back() -> std::io::Result<()> {
    set_nice(0, NICE)
}

/// Puts a thread of this process behind everybody.
pub(crate) fn stand_last(thread: i32) {
    // It stays as it is where that is not permitted: it was said at its start.
    let _ = set_nice(thread, NICE_LAST);
}

#[allow(unsafe_code)]
fn set_nice(thread: i32, nice: libc::c_int) -> std::io::Result<()> {
    // Of Linux, not of POSIX: the priority is a thread's own, and 0 is the calling thread.
    let who = libc::id_t::try_from(thread).map_err(std::io::Error::other)?;
    // SAFETY: plain numbers go in, one comes out.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS as _, who, nice) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The calling thread's number in the system; 0 where `/proc` is not there.
pub(crate) fn thread_id() -> i32 {
    let link = std::fs::read_link("/proc/thread-self").ok();
    let name = link.and_then(|link| link.file_name()?.to_str()?.parse().ok());
    name.unwrap_or(0)
}

/// What the calling thread has used of the processor.
pub(crate) fn used() -> Duration {
    time(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

/// What a thread of this process has used; `None` where it is gone.
pub(crate) fn used_by(thread: i32) -> Option<Duration> {
    // How the kernel writes "the scheduler's clock of this thread" (include/linux/posix-timers_types.h).
    time(ClockId::from_raw((!thread << 3) | 6))
}

fn time(clock: ClockId) -> Option<Duration> {
    clock_gettime(clock).ok().map(Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stands_back_and_its_time_is_seen_from_outside() {
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            stand_back().unwrap();
            let (before, mut sum) = (used(), 0u64);
            while used() - before < Duration::from_millis(20) {
                sum = sum.wrapping_mul(31).wrapping_add(7);
            }
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            tell.send((thread_id(), stat, sum)).unwrap();
            std::thread::park();
        });
        let (id, stat, _) = told.recv().unwrap();
        // The name, in brackets, is the second field; the nice value the nineteenth.
        let after_name = stat.rsplit(')').next().unwrap();
        assert_eq!(after_name.split_whitespace().nth(16), Some("10"), "{stat}");
        assert!(used_by(id).unwrap() >= Duration::from_millis(20));
        stand_last(id);
        thread.thread().unpark();
        thread.join().unwrap();
    }
}
