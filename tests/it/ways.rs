//! The ways from a gateway to its broker, whole: WebSockets, a pinned key, proxies, a second endpoint. Whatever is in the way is
//! named by `status` and by `uplink test`, and nothing is lost over it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::certificates::Certificates;
use millrace_tests::peer::{Peer, python};
use millrace_tests::ports::free_port;
use millrace_tests::process::find_program;
use millrace_tests::proxy::{PASSWORD, Pproxy, USER};
use millrace_tests::received::Received;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};

use crate::ledger;
use crate::plant;

/// A gateway with the devices `pump` and `tank`, which are one foreign device: each has an uplink of its own.
struct Scene {
    gateway: Gateway,
    broker: Broker,
    subscriber: Subscriber,
    devices: String,
    _device: Peer,
    directory: tempfile::TempDir,
}

impl Scene {
    /// The broker has these further lines; they are asked for once the certificates are there.
    fn start(lines: impl Fn(&Path) -> String) -> Result<Scene> {
        let directory = tempfile::tempdir()?;
        let broker = Broker::start_with(directory.path(), &lines(directory.path()))?;
        let subscriber = Subscriber::start(broker.port)?;
        let (device, port) = plant::start_pump(directory.path(), &[])?;
        let devices = plant::small_pump_config(port, &[0])
            + &plant::small_pump_config(port, &[7]).replace("\"pump\"", "\"tank\"");
        Ok(Scene {
            gateway: Gateway::new(directory.path()),
            broker,
            subscriber,
            devices,
            _device: device,
            directory,
        })
    }

    /// Has the agent run with these uplinks, whether it runs already or not.
    fn with(&mut self, uplinks: &str) -> Result<()> {
        self.gateway
            .configure(&format!("{uplinks}{}", self.devices))?;
        match self.gateway.is_running() {
            true => self.gateway.signal("HUP"),
            false => self.gateway.start(),
        }
    }

    /// Waits until the cause of a failure is in `status`, and holds `uplink test` to the same words.
    fn names(&self, uplink: &str, words: &[&str]) -> Result<()> {
        let all = |said: &str| words.iter().all(|word| said.contains(word));
        wait_for(&format!("{words:?} of {uplink}"), STEP, || {
            let status = self.gateway.json(&["status"]).ok()?;
            let uplinks = status["uplinks"].as_array()?;
            let of = uplinks.iter().find(|row| row["name"] == uplink)?;
            let down = of["state"] == "down" && of["error"].as_str().is_some_and(all);
            let problem = status["problems"].to_string().contains(uplink);
            (down && problem).then_some(())
        })
        .with_context(|| self.gateway.log())?;
        let tested = self.gateway.cli(&["uplink", "test", uplink])?;
        let wrapped = String::from_utf8(tested.stdout)?;
        let said: Vec<&str> = wrapped.split_whitespace().collect();
        let said = said.join(" ");
        ensure!(!tested.status.success() && all(&said), "{words:?}: {said}");
        Ok(())
    }

    /// Waits for new samples of both devices, and holds `uplink test` to it.
    fn delivers(&self, uplinks: &[&str]) -> Result<()> {
        for source in ["pump", "tank"] {
            let before = self.subscriber.look(|got| got.count(source));
            self.subscriber
                .wait(&format!("more of {source}"), STEP * 2, |got| {
                    got.count(source) > before + 3
                })
                .with_context(|| self.gateway.log())?;
        }
        for uplink in uplinks {
            let tested = self.gateway.cli(&["uplink", "test", uplink])?;
            let said = String::from_utf8(tested.stdout)?;
            ensure!(tested.status.success(), "{said}");
        }
        Ok(())
    }

    /// Everything that was acquired came, and nothing else.
    fn end(mut self) -> Result<Received> {
        self.gateway.terminate()?;
        let got = self.subscriber.stop();
        assert_eq!(got.violations, Vec::<String>::new());
        for source in ["pump", "tank"] {
            assert_eq!(got.line(source)?.holes(), [], "{source}");
        }
        assert!(got.gaps.is_empty(), "{:?}", got.gaps);
        Ok(got)
    }
}

/// An uplink that sends one of the devices.
fn uplink(name: &str, route: &str, url: &str, more: &str) -> String {
    format!(
        "[[uplink]]\nname = \"{name}\"\nclient_id = \"{name}\"\nurl = \"{url}\"\nroute = [\"{route}\"]\nstart = \"oldest\"\n{more}\n"
    )
}

/// The command of docs/configuration: what goes into `pin_sha256`.
fn pin_of(certificate: &Path) -> Result<String> {
    let command = format!(
        "openssl x509 -in {} -noout -pubkey | openssl pkey -pubin -outform der | sha256sum",
        certificate.display()
    );
    find_program("openssl")?;
    let output = Command::new("sh").arg("-c").arg(command).output()?;
    let text = String::from_utf8(output.stdout)?;
    text.split(' ')
        .next()
        .map(str::to_owned)
        .context("a digest")
}

#[test]
fn over_websockets_and_by_a_pinned_key() -> Result<()> {
    let (ws, wss) = (free_port()?, free_port()?);
    let mut scene = Scene::start(|directory| {
        let made = Certificates::make(directory);
        let made = made.expect("openssl makes certificates");
        format!(
            "listener {ws} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n\
             listener {wss} 127.0.0.1\nprotocol websockets\nallow_anonymous true\ncertfile {}\nkeyfile {}",
            made.server().display(),
            made.server_key().display()
        )
    })?;
    let pin = pin_of(&scene.directory.path().join("server.pem"))?;
    let web = uplink("web", "pump", &format!("ws://127.0.0.1:{ws}/mqtt"), "");
    let pinned = |pin: &str| {
        let url = format!("wss://127.0.0.1:{wss}/mqtt");
        uplink("pinned", "tank", &url, &format!("pin_sha256 = [\"{pin}\"]"))
    };
    scene.with(&format!("{web}{}", pinned(&pin)))?;
    scene.delivers(&["web", "pinned"])?;

    // Another key than the broker has: nothing goes there, and what it has is said.
    scene.with(&format!("{web}{}", pinned(&"0".repeat(64))))?;
    scene.names("pinned", &["another key", &pin])?;
    let at = scene.subscriber.look(|got| got.count("tank"));
    // The port of the other listener: there is no WebSocket.
    let plain = format!("ws://127.0.0.1:{}", scene.broker.port);
    scene.with(&format!(
        "{}{}",
        uplink("web", "pump", &plain, ""),
        pinned(&"0".repeat(64))
    ))?;
    scene.names("web", &["no WebSocket at"])?;
    assert_eq!(scene.subscriber.look(|got| got.count("tank")), at);

    scene.with(&format!("{web}{}", pinned(&pin)))?;
    scene.delivers(&["web", "pinned"])?;
    scene.end()?;
    Ok(())
}

#[test]
fn through_an_http_proxy_and_by_socks() -> Result<()> {
    let mut scene = Scene::start(|_| String::new())?;
    let python = python()?;
    let port = free_port()?;
    let proxy = Pproxy::start(&python, port)?;
    scene.gateway.write("proxy.password", PASSWORD)?;
    // The proxy looks the name up.
    let url = format!("mqtt://localhost:{}", scene.broker.port);
    let through = |scheme: &str| {
        format!(
            "proxy = \"{scheme}://127.0.0.1:{port}\"\nproxy_username = \"{USER}\"\nproxy_password_file = \"proxy.password\""
        )
    };
    let both = uplink("http", "pump", &url, &through("http"))
        + &uplink("socks", "tank", &url, &through("socks5"));
    scene.with(&both)?;
    scene.delivers(&["http", "socks"])?;

    // It goes, and every connection with it.
    drop(proxy);
    let named = |scheme: &str| format!("the proxy {scheme}://127.0.0.1:{port} cannot be reached");
    scene.names("http", &[&named("http")])?;
    scene.names("socks", &[&named("socks5")])?;
    let proxy = Pproxy::start(&python, port)?;
    scene.with(&both)?;
    scene.delivers(&["http", "socks"])?;

    // It does not take us.
    scene.gateway.write("proxy.password", "wrong")?;
    scene.with(&both)?;
    let named = |scheme: &str| format!("the proxy {scheme}://127.0.0.1:{port}");
    scene.names("http", &[&named("http"), "407"])?;
    scene.names("socks", &[&named("socks5"), "SOCKS5"])?;
    scene.gateway.write("proxy.password", PASSWORD)?;
    scene.with(&both)?;
    scene.delivers(&["http", "socks"])?;

    // It takes us and does not get to the broker.
    let nowhere = format!("mqtt://localhost:{}", free_port()?);
    scene.with(&uplink("http", "*", &nowhere, &through("http")))?;
    scene.names("http", &[&named("http"), &nowhere])?;
    scene.with(&both)?;
    scene.delivers(&["http", "socks"])?;
    drop(proxy);
    scene.end()?;
    Ok(())
}

#[test]
fn the_second_endpoint_takes_over_and_the_first_gets_everything_back() -> Result<()> {
    let mut scene = Scene::start(|_| String::new())?;
    let elsewhere = tempfile::tempdir()?;
    let mut second = Broker::start(elsewhere.path())?;
    let at_second = Subscriber::start(second.port)?;
    let url = |port: u16| format!("mqtt://127.0.0.1:{port}");
    let (first_url, second_url) = (url(scene.broker.port), url(second.port));
    let fallback = format!("fallback_urls = [\"{second_url}\"]");
    scene.with(&uplink("core", "*", &first_url, &fallback))?;
    scene.delivers(&["core"])?;
    let endpoint_is = |scene: &Scene, url: &str| {
        wait_for(&format!("a connection to {url}"), STEP * 2, || {
            let status = scene.gateway.json(&["status"]).ok()?;
            let row = &status["uplinks"][0];
            (row["state"] == "connected" && row["endpoint"] == url).then_some(())
        })
        .with_context(|| scene.gateway.log())
    };
    endpoint_is(&scene, &first_url)?;

    scene.broker.stop()?;
    at_second.wait("samples at the second", STEP * 2, |got| {
        got.count("pump") > 5 && got.count("tank") > 5
    })?;
    endpoint_is(&scene, &second_url)?;
    let tested = scene.gateway.cli(&["uplink", "test", "core"])?;
    let said = String::from_utf8(tested.stdout)?;
    ensure!(
        tested.status.success() && said.contains(&second_url),
        "{said}"
    );

    // Both are down: each is named.
    second.stop()?;
    let dead = |port: u16| format!("TCP connection to 127.0.0.1:{port}; nothing listens there");
    scene.names("core", &[&dead(scene.broker.port), &dead(second.port)])?;
    second.restart()?;
    endpoint_is(&scene, &second_url)?;

    // The first is back: within half a minute the agent is, too, with all that it has and nothing at the second any more.
    scene.broker.restart()?;
    endpoint_is(&scene, &first_url)?;
    scene.delivers(&["core"])?;
    let at = at_second.look(|got| got.count("pump"));
    scene.delivers(&["core"])?;
    assert_eq!(at_second.look(|got| got.count("pump")), at);

    let acquired = wait_for("an empty queue", STEP, || {
        let rows = ledger::verified(&scene.gateway).ok()?;
        rows.values().all(|row| row.lost() == 0).then_some(rows)
    })?;
    scene.gateway.terminate()?;
    let (first, second) = (scene.subscriber.stop(), at_second.stop());
    for source in ["pump", "tank"] {
        let numbers: std::collections::BTreeSet<u64> = [&first, &second]
            .iter()
            .filter_map(|got| got.line(source).ok())
            .flat_map(|line| line.samples.keys().copied())
            .collect();
        let last = numbers.last().copied().unwrap_or_default();
        assert_eq!(numbers.len() as u64, last, "a hole before {last}");
        assert!(last >= acquired[source].acquired, "{last} of {acquired:?}");
    }
    for got in [first, second] {
        assert_eq!(got.violations, Vec::<String>::new());
    }
    Ok(())
}
