//! What format 1 says of manifests and the mark: read from the golden store, they are written the same.

use std::fs;

use millrace_tags::LogKind;

use crate::epoch::{disk_bytes, sealed_bytes};
use crate::manifest::{Manifest, summarise};
use crate::mark::Mark;
use crate::scan::Unreadable;

#[path = "../tests/support/store_v1.rs"]
pub(crate) mod store_v1;

#[test]
fn manifests_and_the_mark_are_written_as_version_1_wrote_them() {
    let dir = tempfile::tempdir().unwrap();
    store_v1::unpack(dir.path());
    let (mut merged, mut plain, mut last) = (0, 0, [0, 0]);
    for (kind, last) in [LogKind::Alarm, LogKind::Data].into_iter().zip(&mut last) {
        for epoch in fs::read_dir(dir.path().join(kind.name())).unwrap() {
            let epoch = epoch.unwrap().path();
            assert_eq!(sealed_bytes(&epoch), disk_bytes(&epoch), "{epoch:?}");
            let before = fs::read(epoch.join("manifest")).unwrap();
            let read = Manifest::read(&epoch).unwrap().unwrap();
            let (first, end) = (read.summary.first, read.summary.last + 1);
            let (scanned, _) = summarise(&epoch, first, end, kind, Unreadable::Fails).unwrap();
            assert_eq!(read, scanned, "what the frames of {epoch:?} say");
            read.write(&epoch).unwrap();
            assert_eq!(fs::read(epoch.join("manifest")).unwrap(), before);
            *last = read.summary.last.max(*last);
            *(if read.summary.merged {
                &mut merged
            } else {
                &mut plain
            }) += 1;
        }
    }
    assert!(merged > 0 && plain > 0, "{merged} merged, {plain} plain");
    let before = fs::read(dir.path().join("mark")).unwrap();
    assert_eq!(Mark::read(dir.path()).unwrap(), Some(last));
    fs::remove_file(dir.path().join("mark")).unwrap();
    drop(Mark::begin(dir.path(), last).unwrap());
    assert_eq!(fs::read(dir.path().join("mark")).unwrap(), before);
}
