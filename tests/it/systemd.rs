//! What the service manager hears: ready, alive, reloading, stopping.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::{Gateway, program};
use millrace_tests::process::Process;
use millrace_tests::wait::{STEP, wait_for};

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

/// Beats ten times a second; somebody has to listen to each.
const OFTEN: Duration = Duration::from_millis(200);

/// An agent as systemd starts it.
fn start(gateway: &Gateway, socket: &Path, watchdog: Duration) -> Result<Process> {
    let directory = gateway.path("");
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "WATCHDOG_PID=$$ exec \"$0\" run --config millrace.toml",
        ])
        .arg(program()?)
        .env("NOTIFY_SOCKET", socket)
        .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
        .env("MILLRACE_SOCKET", directory.join("millrace.sock"))
        .env("RUNTIME_DIRECTORY", directory.join("run"))
        .current_dir(&directory);
    Process::start(&mut command, &directory.join("millrace.log"))
}

fn listen(path: &Path) -> Result<UnixDatagram> {
    let socket = UnixDatagram::bind(path)?;
    socket.set_read_timeout(Some(STEP))?;
    Ok(socket)
}

#[test]
fn the_service_manager_hears_that_the_agent_lives() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    gateway.configure("")?;
    let heard = directory.path().join("notify.sock");
    let socket = listen(&heard)?;
    let mut agent = start(&gateway, &heard, OFTEN)?;
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

/// systemd need not wait, nor lose patience, while a store takes long to open.
#[test]
fn ready_is_said_before_a_long_opening_and_beats_go_on() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    gateway.configure("")?;
    let heard = directory.path().join("notify.sock");
    let socket = listen(&heard)?;
    // Who opens this part of the data waits for a writer.
    std::fs::create_dir(gateway.data_dir())?;
    let pipe = gateway.data_dir().join("totals");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success());
    let mut agent = start(&gateway, &heard, OFTEN)?;
    hear(&socket, "READY=1")?;
    agent.signal("HUP")?;
    for _ in 0..5 {
        hear(&socket, "WATCHDOG=1")?;
    }
    ensure!(
        !gateway.cli(&["status"])?.status.success(),
        "it is open already"
    );
    // It reads nothing, and finds nothing there the next time.
    let writer = std::fs::OpenOptions::new().write(true).open(&pipe)?;
    std::fs::remove_file(&pipe)?;
    drop(writer);
    hear(&socket, "RELOADING=1")?;
    wait_for("an answer", STEP, || {
        // Each beat is taken, so that the next one has room.
        let _ = socket.recv(&mut [0; 512]);
        gateway
            .cli(&["status"])
            .is_ok_and(|output| output.status.success())
            .then_some(())
    })?;
    agent.signal("TERM")?;
    hear(&socket, "STOPPING=1")?;
    assert!(agent.wait(STEP)?.success());
    Ok(())
}

/// The main loop waits for ever, in the middle of a reload: systemd hears nothing more, and would start the agent anew.
#[test]
fn a_main_loop_that_hangs_stops_the_beats() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    gateway.configure("")?;
    let heard = directory.path().join("notify.sock");
    let socket = listen(&heard)?;
    let mut agent = start(&gateway, &heard, OFTEN)?;
    hear(&socket, "READY=1")?;
    hear(&socket, "WATCHDOG=1")?;
    // Nobody writes into this pipe: who reads it waits.
    let pipe = gateway.path("tags.csv");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success());
    gateway.configure(
        "[[device]]\nname = \"pump\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:9\"\ntags_file = \"tags.csv\"\n",
    )?;
    agent.signal("HUP")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    wait_for("silence", STEP, || {
        socket.recv(&mut [0; 512]).is_err().then_some(())
    })?;
    assert!(agent.is_running(), "it ended instead of hanging");

    // The reload comes to its end, and the beats come back.
    std::fs::write(&pipe, "name,address\n")?;
    socket.set_read_timeout(Some(STEP))?;
    hear(&socket, "WATCHDOG=1")?;
    agent.signal("TERM")?;
    hear(&socket, "STOPPING=1")?;
    assert!(agent.wait(STEP)?.success());
    Ok(())
}

/// What somebody sees who stands before the box: a blinking LED, and why, above the login prompt.
#[test]
fn the_box_shows_what_it_waits_for() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    let led = directory.path().join("led");
    std::fs::create_dir(&led)?;
    for (name, text) in [
        ("trigger", "[mmc0]"),
        ("brightness", "0"),
        ("max_brightness", "1\n"),
    ] {
        std::fs::write(led.join(name), text)?;
    }
    gateway.configure("status_led = \"led\"\n")?;
    let heard = directory.path().join("notify.sock");
    let socket = listen(&heard)?;
    let mut agent = start(&gateway, &heard, Duration::from_secs(3600))?;
    hear(&socket, "READY=1")?;
    let light = || std::fs::read_to_string(led.join("brightness")).unwrap_or_default();
    for lit in ["1", "0", "1"] {
        wait_for("a blink", STEP, || (light() == lit).then_some(()))?;
    }
    assert_eq!(std::fs::read_to_string(led.join("trigger"))?, "none");
    let issue = directory.path().join("run/issue");
    let says = |what: &str| {
        wait_for(what, STEP, || {
            let line = std::fs::read_to_string(&issue).ok()?;
            line.contains(what).then_some(())
        })
    };
    says("Millrace gw-1: waits for a configuration or a claim")?;
    let claims = gateway.data_dir().join("claim");
    std::fs::create_dir_all(&claims)?;
    std::fs::write(claims.join("usb.toml"), "token = \"cut-off")?;
    says("usb.toml cannot be used: line 1")?;
    agent.signal("TERM")?;
    assert!(agent.wait(STEP)?.success());
    assert_eq!(light(), "0", "it is dark where nothing runs");
    Ok(())
}
