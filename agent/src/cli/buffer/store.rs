//! Where the store is: behind a running agent, or a directory that nobody uses.

use std::io::Write;
use std::path::PathBuf;

use millrace_buffer::{Archive, Progress};

use super::super::client::{Client, query};
use super::super::{Failure, Global};
use crate::config;
use crate::stored::{self, ChunksRequest, Format, Outcome, Request};

/// How far a reading has come.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Bytes that the agent has sent since the last step.
    Sent(usize),
    /// Where a directory is read.
    Read(Progress),
}

/// Writes records to `out`: the running agent's or, where none listens, those in its directory.
pub(super) fn records(
    global: &Global,
    request: &Request,
    out: &mut dyn Write,
    mut each: impl FnMut(Step),
) -> anyhow::Result<Outcome> {
    let path = format!("/v1/buffer/records?{}", records_query(request));
    if let Some(outcome) = client(global).copy(&path, out, |bytes| each(Step::Sent(bytes)))? {
        return Ok(outcome);
    }
    let archive = directory(global)?;
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, out);
    Ok(stored::write(
        &archive,
        request,
        &mut out,
        |progress, _| each(Step::Read(progress)),
    )?)
}

/// Writes chunks to `out`, as JSON lines.
pub(super) fn chunks(
    global: &Global,
    request: &ChunksRequest,
    mut out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let ChunksRequest { log, count, newest } = request;
    let log = log.name();
    let path = format!("/v1/buffer/chunks?log={log}&count={count}&newest={newest}");
    if let Some(outcome) = client(global).copy(&path, out, |_| {})? {
        return Ok(outcome);
    }
    let archive = directory(global)?;
    Ok(stored::write_chunks(&archive, request, &mut out)?)
}

/// The agent that has the store: with --data-dir it is the one of that directory and no other.
pub(super) fn client(global: &Global) -> Client {
    Client::new(&Global {
        socket: global.socket.clone().or_else(|| {
            let dir = global.data_dir.as_ref()?;
            Some(dir.join(super::super::client::SOCKET_NAME))
        }),
        ..global.clone()
    })
}

fn directory(global: &Global) -> anyhow::Result<Archive> {
    let dir = buffer_dir(global);
    Archive::open(&dir).map_err(|error| {
        let hint =
            "no agent listens, so its directory is read: --data-dir or --config names another one";
        Failure::new(crate::device::chain(&error)).hint(hint).into()
    })
}

/// The store's directory: as the options say, or the configuration, or by default.
pub(super) fn buffer_dir(global: &Global) -> PathBuf {
    let named = global.data_dir.clone();
    let data_dir = named.or_else(|| {
        let loaded = config::load(global.config.as_deref(), None).ok()?;
        Some(loaded.config.gateway.data_dir)
    });
    config::buffer_dir(data_dir.as_deref().unwrap_or_else(|| global.data_dir()))
}

fn records_query(request: &Request) -> String {
    let format = match request.format {
        Format::Csv => "csv",
        Format::Jsonl => "jsonl",
        Format::Exact => "exact",
    };
    let mut text = format!(
        "log={}&format={format}&newest={}",
        request.log.name(),
        request.newest
    );
    for (key, pattern) in [("source", &request.source), ("tag", &request.tag)] {
        if let Some(pattern) = pattern {
            text.push_str(&format!("&{key}={}", query(pattern)));
        }
    }
    for (key, time) in [("from", request.from), ("to", request.to)] {
        if let Some(time) = time {
            text.push_str(&format!("&{key}={time}"));
        }
    }
    if let Some(count) = request.count {
        text.push_str(&format!("&count={count}"));
    }
    text
}
