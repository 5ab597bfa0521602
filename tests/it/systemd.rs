//! What the service manager hears: ready, alive, reloading, stopping.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::{Gateway, program};
use millrace_tests::process::Process;
use millrace_tests::wait::{STEP, wait_for};

/// Beats ten times a second; somebody has to listen to each.
const OFTEN: Duration = Duration::from_millis(200);

/// An agent as systemd starts it, and where systemd listens.
struct Service {
    gateway: Gateway,
    socket: UnixDatagram,
    agent: Process,
}

impl Service {
    /// Starts it with this configuration. It has said that it is ready.
    fn start(directory: &Path, config: &str, watchdog: Duration) -> Result<Service> {
        let gateway = Gateway::new(directory);
        gateway.configure(config)?;
        let heard = directory.join("notify.sock");
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
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .env("MILLRACE_SOCKET", directory.join("millrace.sock"))
            .env("RUNTIME_DIRECTORY", directory.join("run"))
            .current_dir(directory);
        let service = Service {
            gateway,
            socket,
            agent: Process::start(&mut command, &directory.join("millrace.log"))?,
        };
        service.hear("READY=1")?;
        Ok(service)
    }

    /// Waits for a word among what is said.
    fn hear(&self, word: &str) -> Result<()> {
        let mut said = [0; 512];
        loop {
            let length = self
                .socket
                .recv(&mut said)
                .with_context(|| format!("{word} was not said"))?;
            let lines = String::from_utf8_lossy(&said[..length]).into_owned();
            if lines.lines().any(|line| line == word) {
                return Ok(());
            }
        }
    }

    /// Ends it as systemd does.
    fn stop(mut self) -> Result<()> {
        self.agent.signal("TERM")?;
        self.hear("STOPPING=1")?;
        assert!(self.agent.wait(STEP)?.success());
        Ok(())
    }
}

#[test]
fn the_service_manager_hears_that_the_agent_lives() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let service = Service::start(directory.path(), "", OFTEN)?;
    for _ in 0..5 {
        service.hear("WATCHDOG=1")?;
    }
    service.agent.signal("HUP")?;
    for word in ["RELOADING=1", "READY=1", "WATCHDOG=1"] {
        service.hear(word)?;
    }
    service.stop()
}

/// systemd need not wait, nor lose patience, while a store takes long to open.
#[test]
fn ready_is_said_before_a_long_opening_and_beats_go_on() -> Result<()> {
    let directory = tempfile::tempdir()?;
    // Who opens this part of the data waits for a writer.
    let data = directory.path().join("data");
    std::fs::create_dir(&data)?;
    let pipe = data.join("totals");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success());
    let service = Service::start(directory.path(), "", OFTEN)?;
    assert_eq!(service.gateway.data_dir(), data);
    service.agent.signal("HUP")?;
    for _ in 0..5 {
        service.hear("WATCHDOG=1")?;
    }
    ensure!(
        !service.gateway.cli(&["status"])?.status.success(),
        "it is open already"
    );
    // It reads nothing, and finds nothing there the next time.
    let writer = std::fs::OpenOptions::new().write(true).open(&pipe)?;
    std::fs::remove_file(&pipe)?;
    drop(writer);
    service.hear("RELOADING=1")?;
    wait_for("an answer", STEP, || {
        // Each beat is taken, so that the next one has room.
        let _ = service.socket.recv(&mut [0; 512]);
        let status = service.gateway.cli(&["status"]);
        status
            .is_ok_and(|output| output.status.success())
            .then_some(())
    })?;
    service.stop()
}

/// The main loop waits for ever, in the middle of a reload: systemd hears nothing more, and would start the agent anew.
#[test]
fn a_main_loop_that_hangs_stops_the_beats() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut service = Service::start(directory.path(), "", OFTEN)?;
    service.hear("WATCHDOG=1")?;
    // Nobody writes into this pipe: who reads it waits.
    let pipe = service.gateway.path("tags.csv");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success());
    service.gateway.configure(
        "[[device]]\nname = \"pump\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:9\"\ntags_file = \"tags.csv\"\n",
    )?;
    service.agent.signal("HUP")?;
    let patience = |limit| service.socket.set_read_timeout(Some(limit));
    patience(Duration::from_secs(2))?;
    wait_for("silence", STEP, || {
        service.socket.recv(&mut [0; 512]).is_err().then_some(())
    })?;
    assert!(service.agent.is_running(), "it ended instead of hanging");

    // The reload comes to its end, and the beats come back.
    std::fs::write(&pipe, "name,address\n")?;
    patience(STEP)?;
    service.hear("WATCHDOG=1")?;
    service.stop()
}

/// What somebody sees who stands before the box: a blinking LED, and why, above the login prompt.
#[test]
fn the_box_shows_what_it_waits_for() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let led = directory.path().join("led");
    std::fs::create_dir(&led)?;
    for (name, text) in [
        ("trigger", "[mmc0]"),
        ("brightness", "0"),
        ("max_brightness", "1\n"),
    ] {
        std::fs::write(led.join(name), text)?;
    }
    let seldom = Duration::from_secs(3600);
    let service = Service::start(directory.path(), "status_led = \"led\"\n", seldom)?;
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
    let claims = service.gateway.data_dir().join("claim");
    std::fs::create_dir_all(&claims)?;
    std::fs::write(claims.join("usb.toml"), "token = \"cut-off")?;
    says("usb.toml cannot be used: line 1")?;
    service.stop()?;
    assert_eq!(light(), "0", "it is dark where nothing runs");
    Ok(())
}
