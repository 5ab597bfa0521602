//! What the service manager hears: ready, alive, reloading, stopping.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use millrace_tests::agent::{Gateway, program};
use millrace_tests::process::Process;
use millrace_tests::wait::STEP;

/// Waits for a word among what is said.
fn hear(socket: &UnixDatagram, word: &str) -> Result<()> {
    let mut said = [0; 512];
    loop {
        let length = socket
            .recv(&mut said)
            .with_context(|| format!("{word} was not said"))?;
        let lines = String::from_utf8_lossy(&said[..length]).into_owned();
        if lines.lines().any(|line| line == word) {
            return Ok(());
        }
    }
}

#[test]
fn the_service_manager_hears_that_the_agent_lives() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    gateway.configure("")?;
    let heard = directory.path().join("notify.sock");
    let socket = UnixDatagram::bind(&heard)?;
    socket.set_read_timeout(Some(STEP))?;
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "WATCHDOG_PID=$$ exec \"$0\" run --config millrace.toml",
        ])
        .arg(program()?)
        .env("NOTIFY_SOCKET", &heard)
        .env(
            "WATCHDOG_USEC",
            Duration::from_millis(200).as_micros().to_string(),
        )
        .env("MILLRACE_SOCKET", directory.path().join("millrace.sock"))
        .current_dir(directory.path());
    let mut agent = Process::start(&mut command, &directory.path().join("millrace.log"))?;
    hear(&socket, "READY=1")?;
    for _ in 0..5 {
        hear(&socket, "WATCHDOG=1")?;
    }
    agent.signal("HUP")?;
    hear(&socket, "RELOADING=1")?;
    hear(&socket, "READY=1")?;
    hear(&socket, "WATCHDOG=1")?;
    agent.signal("TERM")?;
    hear(&socket, "STOPPING=1")?;
    assert!(agent.wait(STEP)?.success());
    Ok(())
}
