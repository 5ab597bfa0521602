//! The sled-backed store-and-forward log.
//!
//! [`Buffer`] takes samples and events, numbers them, makes them durable in commits, and hands them to
//! each uplink's [`Outbox`] until that uplink has acked them. What cannot be kept is counted with a
//! reason ([`Ledger`]) and announced as a gap. No async; all file access is on one thread of its own.
//!
//! # The model
//!
//! A *source* (device or model) has one *number line* in each of two *logs*: data (samples) and alarm
//! (events). A line belongs to a *stream*; numbers of one stream are never given twice. What one commit
//! adds to a log is a *chunk*; chunks are numbered. Chunks live in *epochs*, small sled databases that
//! are written once, sealed, and removed whole. An uplink's *cursor* is the set of chunk numbers that
//! it has settled. Lanes are reading positions: live reads the *tail* in memory, backlog reads chunks
//! from the disk, and both pass over what is in flight or acked.
//!
//! # What is lost, and when
//!
//! | event | loss |
//! |---|---|
//! | process killed, power cut | what was appended after the last commit; announced as gap `crash`, an upper bound |
//! | disk full or read-only | nothing at first: delivery goes on from memory; beyond 16 MiB the newest are refused, gap `newest` |
//! | store at `max_bytes`, or the file system at `reserve` | by [`WhenFull`]: the oldest epoch, gap `full`; or the newest, gap `newest` |
//! | data past `max_age` | the epoch, gap `age` |
//! | [`Buffer::purge`] | what it names, gap `purged` |
//! | damaged file | the damaged chunks, gap `damage`; a damaged end closes the stream (`last_seq` null) |
//! | a page that the device cannot read | its chunk, gap `damage`, after two minutes of attempts; while the buffer opens, after some seconds |
//! | any other error while reading | nothing: it is tried again for ever, or the buffer does not open and can be opened later |
//! | names that are damaged | nothing: they are known from the other log, another epoch or the manifest; else `source-N` stands for them |
//! | downgrade | nothing: epochs of the newer program are kept as `.newer`; the stream ends, gap `damage` |
//! | state file lost | nothing: what was acked is sent again |
//! | settled chunk damaged | nothing; its numbers count as acked, though some may have been a gap |
//! | refused by the core | nothing: set aside and queued, until a command gives it up (gap `poison`) or limits take it |
//!
//! What an uplink *sets aside* (numbers that the other side refuses) is not offered and not acked: it counts
//! as queued, its chunk is not settled, its epoch stays until the limits need the room. The state file
//! holds it, and what was given up of chunks that are not settled, by line. Both are taken over at the
//! next start as far as an unsettled chunk still holds the numbers. With 0 tries they were *withheld*: nothing of
//! their line is offered until it is released, see [`Outbox::withhold`].
//!
//! A number may be published before it is committed, but never further than *ahead* beyond its source's
//! last commit (the larger of 256 and four times that commit). The directory entry of each commit holds
//! the distance, so that numbers begin above all that may have been seen. While the disk refuses,
//! numbers are given in a fresh random stream, which needs no such promise.
//!
//! # What stays, and what goes first
//!
//! An epoch that every uplink has settled stays for `keep` after that, in at most a quarter of its log's
//! room. Room is made in this order: epochs that recovery set aside, settled epochs, then what
//! [`WhenFull`] says. All files of the directory count, in blocks of the file system. Ages are measured on
//! the monotonic clock; only for what an earlier process wrote the wall clock is asked, if it is set.
//! Refused numbers are voids in the log; while there is no room they are written down rarely.
//! [`Buffer::replay`] takes settled chunks out of an uplink's cursor; they are removed again when they are
//! settled again. What an uplink has given up is remembered by number, so that no replay brings it.
//!
//! # A long outage
//!
//! A commit of few records makes a small chunk, and small chunks compress badly. So sealed epochs of small
//! chunks (up to 8,000 records and 24 KiB on average) are merged into one, two to eight neighbours at a
//! time, once. Not the newest one, and only where no uplink has settled, taken or loaded anything of
//! them. A merged chunk holds up to 32,000 records and 96 KiB, of one stream, one timebase and one of the
//! original epochs. It keeps the numbers of its parts and stands for all their chunk numbers; voids stay
//! directory entries, and of each line the newest `ahead` counts. An uplink that once settled a part of a
//! merged chunk, and forgot, gets all of it again.
//!
//! The buffer's own thread does it in small steps, at most half of the time, when nothing else is to be
//! done. A merged epoch in the making takes what a log keeps free for the rotation, one epoch's worth, and
//! is not begun, or is given up, where there is less: nothing goes because of it. Each merged chunk is
//! unpacked and compared with its parts to the bit before it is written; the epoch is made durable,
//! scanned and read back. Then FIRST.ep becomes FIRST.old, FIRST.new becomes FIRST.ep, and the parts
//! become .del; each renaming is durable before the next step. From the second one on the merged epoch
//! stands for all epochs within its range: opening deletes those, or FIRST.new where it did not come so
//! far. On any doubt (a frame that cannot be read, a name that is missing, no gain) the originals stay.
//!
//! # On disk (format 1)
//!
//! Format 1 is pinned by `tests/golden`: a chunk frame with every type (`chunk-v1.bin`), and a whole store
//! with merged and plain epochs of both logs, voids, states and marks (`store-v1.bin`).
//!
//! ```text
//! format            "millrace-buffer 1", CRC32C of that in hex
//! lock              held with flock while the buffer is open
//! clean             last chunk of the alarm and the data log; only there after a clean stop
//! mark              the same after each commit, not waited for: u64, u64, CRC32C
//! state.0 state.1   two slots, written in turn and in place:
//!                   F1 'M' 'R' 's', version, generation u64, length u32, CRC32C, JSON
//! alarm/ data/      one directory for each log
//!   FIRST.ep/       an epoch, named by its first chunk number in hex
//!     db            sled's log; frames lie in it verbatim
//!     manifest      sealed epochs: F1 'M' 'R' 'm', version, then summary and table,
//!                   each as length u32, CRC32C, body
//!   FIRST.new/      a merged epoch that is not complete
//!   FIRST.old/      the first part of a merged epoch that takes its place just now
//!   FIRST.del/      an epoch whose removal was interrupted
//!   FIRST.newer/    an epoch with frames of a newer program, never removed and not counted; where it has
//!                   frames of this one too, `db` is a second link to the file of FIRST.ep
//!   FIRST.bad/      an epoch that nothing could be read from; two at most, gone when room is needed
//! ```
//!
//! **State** (the JSON of a slot), beside what each uplink has settled and is owed: for each log `removed`
//! (ranges of chunk numbers that are gone), `last_chunk`, the counts of what is gone, and `ends`: of each
//! line (`stream`, `source`) that had numbers in chunks that are gone the last one (`end`) and all of them
//! (`numbers`, ranges), because epochs do not go in the order of their age. What is below a line's end, in
//! no chunk and not in `numbers`, is missing.
//!
//! Numbers are little-endian on every architecture; `v` is a variable-length integer (seven bits a byte, lowest first), `s` a
//! zigzag-signed one.
//!
//! **Chunk frame**, a sled value, at most 124 KiB:
//!
//! ```text
//!  0  F1 'M' 'R' 'c'
//!  4  version 1                5  flags: 1 alarm log, 2 body packed with zstd, 4 offset known
//!  6  chunk number u64        14  chunk numbers it stands for, u32 (1 unless merged)
//! 18  stream, 16 bytes        34  boot id, 16 bytes
//! 50  offset i64: UTC nanoseconds of the boot's moment zero
//! 58  newest moment i64
//! 66  directory entries u32   70  directory length u32
//! 74  unpacked length u32     78  body length u32
//! 82  CRC32C of the whole frame, this field taken as zero
//! 86  directory: for each entry  v source, reason u8 (0: records), v first, v count, v ahead
//!     body
//! ```
//!
//! All moments of a chunk belong to one boot and one offset: when the clock is set or stepped, a new
//! chunk begins. A chunk without an offset gets the first one that was known in its boot, from the
//! state file or from any other chunk of that boot, whenever it is read; its frame stays as it is.
//! An entry with a reason is a void: numbers that never come, without columns. A chunk without entries
//! only begins an epoch, whose catalogue says where the lines stand.
//!
//! **Body of a data chunk**: five sections (`v` length, bytes): shapes, times, values, source times,
//! qualities. Each entry with records contributes its groups, one for each tag in ascending order:
//!
//! - *shapes*: `v` number of groups; for each `v` tag step, `v` count, form byte (low four bits: value
//!   form; 0x10 some values absent, 0x20 not all good, 0x40 some, 0x80 all have source times).
//! - *times*: `v` 0 and then `s` first against the first of the previous column, `s` difference, `s`
//!   changes of the difference; or `v` n: the same as the n-th last distinct column (at most 8).
//! - *values*: a bitmap of the present ones where some are absent, then by form: 0 none, 1 bits,
//!   2 i64 and 3 u64 as `s` differences, 4 f64 and 6 f32 as decimals u8 and `s` differences of the
//!   scaled integers, 5 f64 and 7 f32 as exclusive or with the predecessor in byte planes, 8 text,
//!   9 bytes, 10 JSON as `v` length + 1 (0: as before) and bytes, 15 mixed: a form byte before each.
//! - *source times*: where some, `v` count and bitmap; then a column as in *times*.
//! - *qualities*: where not all good, runs of `v` length, severity u8 and, if not good, reason u8, `v`
//!   status.
//!
//! The order of an entry is (gateway time, tag, position), so the columns decode to it without another
//! one. **Body of an alarm chunk**: each event as `v` length and JSON.
//!
//! **Catalogue frame**, at the start of each epoch and before the first chunk with a new id:
//! F1 'M' 'R' 'k', version, log u8, stream, length u32, reserved u32, CRC32C, then sources
//! (0, `v` id, kind, name, `v` last number, `v` limit) and tags (1, `v` id, `v` source, name, type,
//! unit).
//!
//! # Recovery
//!
//! sled is a writer only: it is never asked to open what it wrote before, because its recovery panics on
//! damage and destroys more while it fails. Sealed epochs are read at the offsets in their manifests;
//! an epoch without a valid manifest is scanned frame by frame. [`Buffer::recovery`] tells what was
//! found.
//!
//! An error of the system is not damage. While the buffer works, a chunk that cannot be read stays queued,
//! blocks what its uplink has behind it in that log, is tried again with waits that double up to a minute,
//! and is named in [`Status::unread`]. While it opens, [`Buffer::open`] fails and has changed nothing that
//! matters: the clean mark goes last.

mod anchor;
mod archive;
mod aside;
#[doc(hidden)]
pub mod bare;
mod boots;
mod buffer;
mod catalogue;
mod chunk;
mod commit;
mod core;
mod disk;
mod epoch;
#[cfg(test)]
mod golden;
mod growth;
mod keeper;
mod ledger;
mod log;
mod manifest;
mod mark;
mod open;
mod outbox;
mod owed;
mod patience;
mod poison;
mod purge;
mod ranges;
mod read_ahead;
mod rechunk;
mod recovery;
mod replay;
mod retention;
mod routes;
mod scan;
mod settings;
mod shared;
mod state;
mod status;
mod store;
mod uplink;
mod verify;
mod wire;

pub use archive::{Archive, ArchiveError, ChunkInfo, Order, Piece, Progress, Reading, Selection};
pub use aside::{SET_ASIDE_MAX, SetAside};
pub use buffer::{Buffer, Registration, Ticket};
pub use catalogue::TagSpec;
pub use core::{CommitError, StoreFailure, VerifyError};
#[doc(hidden)]
pub use disk::Space;
pub use ledger::{Ledger, Row, UplinkLedger};
pub use outbox::{Budget, Item, KnownLine, Offer, OfferId, Outbox, Start};
pub use purge::{Purge, PurgeError, Purged};
pub use recovery::Recovery;
pub use replay::{Replay, ReplayError, Replayed, ReplayedTo, Span};
pub use settings::{OpenError, Settings, WhenFull};
pub use status::{LogStatus, Queued, Status};
