//! A disk that loses power: what the shim wrote down of a program, replayed up to any instant, and what
//! may then be on the disk.
//!
//! The model is stricter than real file systems. Data of a file is durable after a sync of that file; an
//! entry of a directory after a sync of that directory, whatever was synced below it. Everything else may
//! be there or not: pages of 4 KB in any mixture (one page holds what was written to it up to some
//! instant), lengths of files, entries of directories.

#![allow(dead_code, clippy::unwrap_used)] // each test uses what it needs; helpers of tests are tests

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use fastrand::Rng;

const PAGE: u64 = 4096;

/// Builds the shim, once for each process, and says where it is.
pub(crate) fn shim() -> &'static Path {
    static SHIM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &SHIM
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/shim/disk.c");
            let library = dir.path().join("disk.so");
            let built = Command::new("cc")
                .args(["-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o"])
                .args([&library, &source])
                .status()
                .expect("there is no C compiler: tests/setup.sh installs one");
            assert!(built.success(), "the shim does not compile");
            (dir, library)
        })
        .1
}

/// Where the marks of a program are written whose files are below `root`.
pub(crate) fn marks(root: &Path) -> PathBuf {
    root.with_extension("marks")
}

/// This test binary once more, under the shim, with nothing to do but the test `name`.
pub(crate) fn under_shim(name: &str, root: &Path, log: Option<&Path>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", shim())
        .env("MILLRACE_DISK_ROOT", root);
    if let Some(log) = log {
        command.env("MILLRACE_DISK_LOG", log);
    }
    command
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Root {
        dir: u64,
    },
    Create {
        dir: u64,
        name: String,
        inode: u64,
        is_dir: bool,
    },
    Write {
        inode: u64,
        offset: u64,
        data: Vec<u8>,
    },
    Size {
        inode: u64,
        len: u64,
    },
    Rename {
        dir: u64,
        from: String,
        to: String,
    },
    Remove {
        dir: u64,
        name: String,
    },
    Sync {
        inode: u64,
    },
    Mark(String),
    Link {
        dir: u64,
        name: String,
        inode: u64,
    },
}

impl Op {
    /// Whether it changes a directory, or settles what may be on the disk.
    pub(crate) fn is_rare(&self) -> bool {
        !matches!(self, Op::Write { .. } | Op::Mark(_))
    }
}

/// What each thing happened to, below the root; of a renaming, the new name.
pub(crate) fn paths(ops: &[Op]) -> Vec<String> {
    let mut names: HashMap<u64, (u64, String)> = HashMap::new();
    let mut inodes: HashMap<(u64, String), u64> = HashMap::new();
    let path = |names: &HashMap<u64, (u64, String)>, inode: u64| {
        let (mut at, mut path) = (inode, Vec::new());
        while let Some((dir, name)) = names.get(&at) {
            path.push(name.as_str());
            at = *dir;
        }
        path.reverse();
        path.join("/")
    };
    let mut seen = Vec::new();
    for op in ops {
        let inode = match op {
            Op::Root { dir: inode }
            | Op::Write { inode, .. }
            | Op::Size { inode, .. }
            | Op::Sync { inode } => *inode,
            Op::Create {
                dir, name, inode, ..
            }
            | Op::Link { dir, name, inode } => {
                names.insert(*inode, (*dir, name.clone()));
                inodes.insert((*dir, name.clone()), *inode);
                *inode
            }
            Op::Rename { dir, from, to } => {
                let inode = inodes.remove(&(*dir, from.clone())).unwrap();
                names.insert(inode, (*dir, to.clone()));
                inodes.insert((*dir, to.clone()), inode);
                inode
            }
            Op::Remove { dir, name } => inodes[&(*dir, name.clone())],
            Op::Mark(_) => {
                seen.push(String::new());
                continue;
            }
        };
        seen.push(path(&names, inode));
    }
    seen
}

/// Reads what the shim wrote down.
pub(crate) fn read_log(path: &Path) -> Vec<Op> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut ops = Vec::new();
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(32);
        let u32_at = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().unwrap());
        let (kind, len1, len2) = (u32_at(0), u32_at(4) as usize, u32_at(8) as usize);
        let (a, b) = (u64_at(16), u64_at(24));
        let (data, tail) = tail.split_at(len1);
        let (second, tail) = tail.split_at(len2);
        rest = tail;
        let name = || String::from_utf8(data.to_vec()).unwrap();
        ops.push(match kind {
            0 => Op::Root { dir: a },
            1 | 2 => Op::Create {
                dir: a,
                name: name(),
                inode: b,
                is_dir: kind == 2,
            },
            3 => Op::Write {
                inode: a,
                offset: b,
                data: data.to_vec(),
            },
            4 => Op::Size { inode: a, len: b },
            5 => Op::Rename {
                dir: a,
                from: name(),
                to: String::from_utf8(second.to_vec()).unwrap(),
            },
            6 => Op::Remove {
                dir: a,
                name: name(),
            },
            7 => Op::Sync { inode: a },
            8 => Op::Mark(name()),
            9 => Op::Link {
                dir: a,
                name: name(),
                inode: b,
            },
            _ => panic!("an unknown record {kind}"),
        });
    }
    ops
}

/// What may have become of an entry.
#[derive(Debug, Clone)]
enum Entry {
    Set(String, usize),
    Remove(String),
    Move(String, String, usize),
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Size(u64),
}

/// A file or directory: what is durable of it, and what came later, with the time of each.
#[derive(Debug, Default)]
struct Node {
    is_dir: bool,
    data: Vec<u8>,
    changes: Vec<(usize, Change)>,
    /// The length as the program saw it.
    len: u64,
    entries: BTreeMap<String, usize>,
    /// The entries as the program saw them.
    seen: BTreeMap<String, usize>,
    moves: Vec<(usize, Entry)>,
}

fn apply(data: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + bytes.len());
    if data.len() < to {
        data.resize(to, 0);
    }
    data[from..to].copy_from_slice(bytes);
}

fn apply_entry(entries: &mut BTreeMap<String, usize>, entry: &Entry) {
    match entry {
        Entry::Set(name, node) => drop(entries.insert(name.clone(), *node)),
        Entry::Remove(name) => drop(entries.remove(name)),
        Entry::Move(from, to, node) => {
            entries.remove(from);
            entries.insert(to.clone(), *node);
        }
    }
}

/// What of the things that no sync has settled is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsynced {
    /// What happened before this time.
    Before(usize),
    /// Any mixture.
    Mixture,
}

/// A disk with a program on it.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    nodes: Vec<Node>,
    /// Inode numbers are used again.
    of_inode: HashMap<u64, usize>,
    root: usize,
    time: usize,
}

impl Disk {
    fn node(&mut self, inode: u64) -> &mut Node {
        let at = self.of_inode[&inode];
        &mut self.nodes[at]
    }

    fn add(&mut self, inode: u64, is_dir: bool) -> usize {
        self.nodes.push(Node {
            is_dir,
            ..Node::default()
        });
        let at = self.nodes.len() - 1;
        self.of_inode.insert(inode, at);
        at
    }

    fn enter(&mut self, dir: u64, entry: Entry) {
        let time = self.time;
        let node = self.node(dir);
        apply_entry(&mut node.seen, &entry);
        node.moves.push((time, entry));
    }

    /// The next thing happens.
    pub(crate) fn advance(&mut self, op: &Op) {
        match op {
            Op::Root { dir } => self.root = self.add(*dir, true),
            Op::Create {
                dir,
                name,
                inode,
                is_dir,
            } => {
                let at = self.add(*inode, *is_dir);
                self.enter(*dir, Entry::Set(name.clone(), at));
            }
            Op::Link { dir, name, inode } => {
                let at = self.of_inode[inode];
                self.enter(*dir, Entry::Set(name.clone(), at));
            }
            Op::Rename { dir, from, to } => {
                let at = self.node(*dir).seen[from];
                self.enter(*dir, Entry::Move(from.clone(), to.clone(), at));
            }
            Op::Remove { dir, name } => self.enter(*dir, Entry::Remove(name.clone())),
            Op::Write {
                inode,
                offset,
                data,
            } => {
                let time = self.time;
                let node = self.node(*inode);
                node.len = node.len.max(offset + data.len() as u64);
                let change = Change::Write(*offset, data.clone());
                node.changes.push((time, change));
            }
            Op::Size { inode, len } => {
                let time = self.time;
                let node = self.node(*inode);
                node.len = *len;
                node.changes.push((time, Change::Size(*len)));
            }
            Op::Sync { inode } => {
                let node = self.node(*inode);
                for (_, change) in node.changes.drain(..) {
                    match change {
                        Change::Write(offset, bytes) => apply(&mut node.data, offset, &bytes),
                        Change::Size(len) => node.data.resize(len as usize, 0),
                    }
                }
                for (_, entry) in node.moves.drain(..) {
                    apply_entry(&mut node.entries, &entry);
                }
            }
            Op::Mark(_) => {}
        }
        self.time += 1;
    }

    /// How many things are not settled by a sync.
    pub(crate) fn unsynced(&self) -> usize {
        let of = |n: &Node| n.changes.len() + n.moves.len();
        self.nodes.iter().map(of).sum()
    }

    /// When the oldest of them happened.
    pub(crate) fn oldest_unsynced(&self) -> usize {
        let changes = self
            .nodes
            .iter()
            .flat_map(|n| n.changes.first().map(|c| c.0));
        let moves = self.nodes.iter().flat_map(|n| n.moves.first().map(|m| m.0));
        changes.chain(moves).min().unwrap_or(self.time)
    }

    pub(crate) fn time(&self) -> usize {
        self.time
    }

    /// Makes the files that are there after the power is back.
    pub(crate) fn restore(&self, to: &Path, unsynced: Unsynced, random: &mut Rng) {
        self.restore_dir(self.root, to, unsynced, random);
    }

    fn restore_dir(&self, at: usize, to: &Path, unsynced: Unsynced, random: &mut Rng) {
        std::fs::create_dir_all(to).unwrap();
        let node = &self.nodes[at];
        let mut entries = node.entries.clone();
        for (time, entry) in &node.moves {
            let there = match unsynced {
                Unsynced::Before(end) => *time < end,
                Unsynced::Mixture => random.bool(),
            };
            if there {
                apply_entry(&mut entries, entry);
            }
        }
        for (name, child) in entries {
            let path = to.join(name);
            if self.nodes[child].is_dir {
                self.restore_dir(child, &path, unsynced, random);
            } else {
                std::fs::write(path, self.nodes[child].restored(unsynced, random)).unwrap();
            }
        }
    }
}

/// The parts of a write that lie in one page each.
fn pages(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = offset;
    let mut rest = data;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let room = (PAGE - at % PAGE) as usize;
        let (part, tail) = rest.split_at(room.min(rest.len()));
        let piece = (at, part);
        at += part.len() as u64;
        rest = tail;
        Some(piece)
    })
}

impl Node {
    fn restored(&self, unsynced: Unsynced, random: &mut Rng) -> Vec<u8> {
        let mut data = self.data.clone();
        match unsynced {
            Unsynced::Before(end) => {
                for (_, change) in self.changes.iter().filter(|(time, _)| *time < end) {
                    match change {
                        Change::Write(offset, bytes) => apply(&mut data, *offset, bytes),
                        Change::Size(len) => data.resize(*len as usize, 0),
                    }
                }
            }
            Unsynced::Mixture => self.mixture(&mut data, random),
        }
        data
    }

    fn mixture(&self, data: &mut Vec<u8>, random: &mut Rng) {
        let mut of_page: BTreeMap<u64, usize> = BTreeMap::new();
        for (_, change) in &self.changes {
            if let Change::Write(offset, bytes) = change {
                for (at, _) in pages(*offset, bytes) {
                    *of_page.entry(at / PAGE).or_default() += 1;
                }
            }
        }
        for writes in of_page.values_mut() {
            *writes = random.usize(..=*writes);
        }
        for (_, change) in &self.changes {
            match change {
                Change::Write(offset, bytes) => {
                    for (at, part) in pages(*offset, bytes) {
                        let left = of_page.get_mut(&(at / PAGE)).unwrap();
                        if *left > 0 {
                            *left -= 1;
                            apply(data, at, part);
                        }
                    }
                }
                Change::Size(len) if random.bool() => data.resize(*len as usize, 0),
                Change::Size(_) => {}
            }
        }
        if random.bool() && self.len as usize > data.len() {
            data.resize(self.len as usize, 0);
        }
    }
}
