//! The schedule of a poller at work, on a paused clock.

use super::*;

/// When each group was read in `span`, in milliseconds after the second slot of the first group: the first read is
/// done at once, off the grid.
async fn polled(act: Act, intervals_ms: &[u64], span: Duration) -> (Vec<Vec<u64>>, DeviceStatus) {
    let scene = Scene::with_intervals(&[Act::Open, act], intervals_ms, NEVER);
    tokio::time::sleep(span).await;
    let reads = lock(&scene.script.reads).clone();
    let status = scene.status();
    scene.stop().await;
    let first = reads.iter().filter(|(group, _)| *group == 0).nth(1);
    let first = first.unwrap().1;
    let of_group = |group: usize| {
        let of_group = reads.iter().filter(|(of, at)| *of == group && *at >= first);
        of_group
            .map(|(_, at)| u64::try_from(at.duration_since(first).as_millis()).unwrap())
            .collect()
    };
    ((0..intervals_ms.len()).map(of_group).collect(), status)
}

#[tokio::test(start_paused = true)]
async fn tags_of_two_intervals_are_read_on_their_grids_for_an_hour() {
    let hour = Duration::from_secs(3_600);
    let (reads, status) = polled(Act::Slow(7), &[500, 1_250], hour).await;
    let [fast, slow] = &reads[..] else {
        panic!("{reads:?}");
    };
    assert!(fast.len().abs_diff(7_200) <= 2 && slow.len().abs_diff(2_880) <= 2);
    for (reads, interval) in [(fast, 500), (slow, 1_250)] {
        let origin = reads[0] % interval;
        for (nth, at) in reads.iter().enumerate() {
            // A read of the other group may be under way; nothing adds up.
            let due = reads[0] + nth as u64 * interval;
            assert!(at.abs_diff(due) <= 9, "{at} {due} {origin}");
        }
    }
    assert_eq!(status.overruns_total, 0);
}

#[tokio::test(start_paused = true)]
async fn slots_that_a_slow_device_misses_are_counted() {
    let (reads, status) = polled(Act::Slow(330), &[100], Duration::from_secs(600)).await;
    let counted = reads[0].len() as u64 + status.overruns_total;
    assert!(counted.abs_diff(6_000) <= 5, "{counted}");
    // One slot that is past is read at once, those before it never.
    let mut pairs = reads[0].windows(2);
    assert!(pairs.all(|pair| (330..=332).contains(&(pair[1] - pair[0]))));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_listens_again_is_not_kept_waiting() {
    let scene = Scene::start(&[Act::Refuse], 100, NEVER);
    *lock(&scene.script.listens) = Some(false);
    // The pauses are half a minute by then.
    tokio::time::sleep(Duration::from_secs(300)).await;
    *lock(&scene.script.acts) = [Act::Open, Act::Hang].into();
    *lock(&scene.script.listens) = Some(true);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(*lock(&scene.script.opened), 1);
    scene.stop().await;
}
