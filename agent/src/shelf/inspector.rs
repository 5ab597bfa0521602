//! The process in which a bundle is examined: this program again, as `millrace model admit`.
//!
//! It gets a share of the machine that cannot hurt polling: a low priority, so much time of the processor, so much
//! memory, and the first place where the system is short of memory. Where it does not end it is killed; nothing of it is
//! left then, which no thread could promise.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal};

use super::examine::{self, Answer, Question, own_memory};

/// This program, whatever lies in its place by now.
const PROGRAM: &str = "/proc/self/exe";
/// The machine may have more to do than this: so much longer than its time of the processor it may take. It never waits for
/// anything, so that only its time of the processor says something about the model.
const WAIT_FACTOR: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What the program itself takes before it has looked at a model.
const PROGRAM_BYTES: u64 = 16 << 20;
/// As the threads that score: a tenth of what polling gets where both want the same core.
const NICE: i32 = 10;
/// What the program says when the system refuses it memory.
const OUT_OF_MEMORY: &str = "memory allocation of";
/// What the engine says then.
const ENGINE_OUT_OF_MEMORY: &str = "failed to allocate";

/// Has a bundle examined; takes its time.
pub(crate) fn examine(question: &Question) -> Answer {
    if cfg!(test) {
        // The program of unit tests has no command line.
        return examine::answer(question);
    }
    match run(question) {
        Ok(answer) => answer,
        Err(error) => Err(format!("it cannot be examined: {error}")),
    }
}

fn run(question: &Question) -> std::io::Result<Answer> {
    let (mut said, mut complaints) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = Command::new(PROGRAM)
        .args(["model", "admit"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(said.try_clone()?)
        .stderr(complaints.try_clone()?)
        .spawn()?;
    let asked = serde_json::to_vec(question).unwrap_or_default();
    if let Some(mut stdin) = child.stdin.take() {
        // Where it has ended already its status says more than this.
        let _ = stdin.write_all(&asked);
    }
    let ended = watch(&mut child, question);
    // It may have ended by itself.
    let _ = child.kill();
    let status = child.wait()?;
    if let Err(sentence) = ended {
        return Ok(Err(sentence));
    }
    if status.success()
        && let Ok(answer) = serde_json::from_str::<Answer>(&read_back(&mut said)?)
    {
        return Ok(match answer {
            Err(sentence) if str::contains(&sentence, ENGINE_OUT_OF_MEMORY) => {
                Err(too_large(question))
            }
            answer => answer,
        });
    }
    Ok(Err(fate(status, &read_back(&mut complaints)?, question)))
}

/// Waits for its end; kills nothing.
fn watch(child: &mut Child, question: &Question) -> Result<(), String> {
    let process = child.id().to_string();
    let until = Instant::now() + question.time * WAIT_FACTOR;
    loop {
        match child.try_wait() {
            Ok(None) => {}
            // What it left behind is looked at.
            Ok(Some(_)) | Err(_) => return Ok(()),
        }
        // For systems that do not let it bound itself.
        if own_memory(&process).is_some_and(|bytes| bytes > question.memory + PROGRAM_BYTES) {
            return Err(too_large(question));
        }
        if Instant::now() > until {
            return Err(endless(question));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn read_back(file: &mut File) -> std::io::Result<String> {
    const BYTES_MAX: u64 = 64 << 10;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a process that gave no answer died of.
fn fate(status: ExitStatus, complaints: &str, question: &Question) -> String {
    if complaints.contains(OUT_OF_MEMORY) {
        return too_large(question);
    }
    match status.signal() {
        Some(signal) if signal == Signal::XCPU.as_raw() => endless(question),
        Some(signal) => format!("it broke the examination down (signal {signal})"),
        None => format!("its examination ended without an answer ({status})"),
    }
}

fn endless(question: &Question) -> String {
    format!(
        "it was not examined within {} s of processor time: it never ends, or is too large for this gateway ([local] model_time)",
        question.time.as_secs()
    )
}

fn too_large(question: &Question) -> String {
    format!(
        "it takes more than {} MiB of memory ([local] model_memory)",
        question.memory >> 20
    )
}

/// `millrace model admit`: the process itself. The question comes on stdin, the answer goes to stdout.
pub(crate) fn serve() -> anyhow::Result<ExitCode> {
    let question: Question = serde_json::from_reader(std::io::stdin().lock())?;
    bound(&question);
    // What the engine panics about is in the answer.
    std::panic::set_hook(Box::new(|_| {}));
    let answer = examine::answer(&question);
    crate::cli::output::json_line(&answer)?;
    Ok(ExitCode::SUCCESS)
}

/// Where the system refuses one of these, whoever waits for us looks after it.
fn bound(question: &Question) {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = rustix::process::setpriority_process(None, NICE);
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    for (resource, most) in [
        (Resource::Cpu, question.time.as_secs().max(1)),
        (Resource::Data, question.memory),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most.saturating_add(1)),
        };
        let _ = rustix::process::setrlimit(resource, limit);
    }
}
